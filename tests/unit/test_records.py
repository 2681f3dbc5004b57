import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.base.errors import Invalid
from penstock.pipelines.records import parse_batch

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=("Cs",)))
values = st.recursive(
    scalars | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
records_of_objects = st.lists(st.dictionaries(text, values, max_size=5), min_size=1, max_size=8)


@given(records_of_objects, st.sampled_from([None, 0, 2]), st.booleans())
def test_each_record_becomes_one_line_that_means_the_same(
    records: list[dict], indent: int | None, ascii: bool
) -> None:
    body = json.dumps(records, indent=indent, ensure_ascii=ascii).encode()
    batch = parse_batch(body)
    assert batch.records == len(records)
    lines = batch.ndjson.split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == records
    assert b"\r" not in batch.ndjson


def test_what_the_client_wrote_is_kept_to_the_letter() -> None:
    record = b'{"n":1.00e5, "big":123456789012345678901234567890,"n":2}'
    assert parse_batch(b"[" + record + b"]").ndjson == record + b"\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b\x08", "looks like gzip"),
        (b"hello", "not JSON"),
        (b'[{"a":1}', "not JSON"),
        (b'[{"a":1}] x', "not JSON"),
        (b'[{"a":NaN}]', "not JSON"),
        (b'[{"a":"\x01"}]', "not JSON"),
        (b'[{"a":"\xff"}]', "byte 7"),
        (b'\xef\xbb\xbf[{"a":1}]', "not JSON"),
        (b"[" * 100_000, "too deeply"),
    ],
)
def test_what_is_not_json_is_refused_with_code_1003(body: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        parse_batch(body)
    assert refused.value.code == 1003


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "array of objects"),
        (b'"text"', "array of objects"),
        (b"null", "array of objects"),
        (b"[]", "empty"),
        (b"[1]", "Record 0 is a number"),
        (b'[{"a":1}, "x"]', "Record 1 is a string"),
        (b"[{},null]", "Record 1 is null"),
        (b"[{},{},[{}]]", "Record 2 is an array"),
        (b"[{},\n true]", "Record 1 is a boolean"),
    ],
)
def test_what_is_not_an_array_of_objects_is_refused_with_code_1002(body: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        parse_batch(body)
    assert refused.value.code == 1002


@settings(max_examples=500)
@given(st.binary(max_size=200) | text.map(str.encode) | values.map(json.dumps).map(str.encode))
def test_whatever_comes_is_parsed_or_refused(body: bytes) -> None:
    try:
        batch = parse_batch(body)
    except Invalid as error:
        assert error.code in (1002, 1003)
    else:
        assert batch.ndjson.count(b"\n") == batch.records
