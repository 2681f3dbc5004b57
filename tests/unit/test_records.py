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


@given(records_of_objects, st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n\t\n"]), st.booleans())
def test_lines_of_objects_mean_the_same_as_an_array(records: list[dict], newline: bytes, ended: bool) -> None:
    body = newline.join(json.dumps(record).encode() for record in records) + (newline if ended else b"")
    batch = parse_batch(body)
    assert batch.records == len(records)
    assert batch == parse_batch(b"[" + b",".join(json.dumps(record).encode() for record in records) + b"]")


@given(st.dictionaries(text, values, max_size=5), st.sampled_from([None, 0, 2]))
def test_one_object_on_any_number_of_lines_is_one_record(record: dict, indent: int | None) -> None:
    batch = parse_batch(b" \n" + json.dumps(record, indent=indent).encode() + b"\n\n")
    assert batch.records == 1
    assert batch.ndjson.count(b"\n") == 1 and json.loads(batch.ndjson) == record


def test_what_a_line_holds_is_kept_to_the_letter() -> None:
    lines = b'{"n":1.00e5, "big":123456789012345678901234567890,"n":2}\n{ "a" : "\\u0000" }\n'
    assert parse_batch(lines).ndjson == lines
    assert parse_batch(lines[:-1]).ndjson == lines


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b\x08", "Content-Encoding: gzip"),
        (b"\x28\xb5\x2f\xfd", "Content-Encoding: zstd"),
        (b"hello", "not JSON"),
        (b'[{"a":1}', "not JSON"),
        (b'[{"a":1}] x', "not JSON"),
        (b'[{"a":NaN}]', "not JSON"),
        (b'[{"a":"\x01"}]', "not JSON"),
        (b'[{"a":"\xff"}]', "byte 7"),
        (b'\xef\xbb\xbf[{"a":1}]', "not JSON"),
        (b"[" * 100_000, "too deeply"),
        (b'{"a":' * 100_000, "too deeply"),
        (b'{}\n{"a":' + b"[" * 100_000, "too deeply"),
        (b'{"a":1', "not JSON"),
        (b'{\n"a":1,\n}', "The body is not JSON"),
        (b'{"a":1}\n{"a":}\n{"a":2}', "Line 2 is not JSON"),
        (b'\r\n{"a":1}\r\n\r\n{"a":1\r\n', "Line 4 is not JSON"),
        (b'{"a":1}\n,{"a":1}', "Line 2 is not JSON"),
        (b'{"a":1},\n{"a":1}', "The body is not JSON"),
        (b'{"a":1}\n{\n"a":2}', "Line 2 is not JSON"),
        (b'{\n"a":1}\n{"a":2}', "Line 1 is not JSON"),
        (b'{\n"a":1}\n{"a":2}\n', "Line 1 is not JSON"),
        (b'{"a":"\\ud800"}', "not JSON"),
        (b'{"a":"\\ud800"}\n{}', "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":"\x00"}', "not JSON"),
        (b'\x00{"a":1}', "not JSON"),
        (b'{"a":1}\x00', "not JSON"),
        (b'{"a":"\xed\xa0\x80"}', "byte 6"),
    ],
)
def test_what_is_not_json_is_refused_with_code_1003(body: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        parse_batch(body)
    assert refused.value.code == 1003


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'"text"', "array of objects"),
        (b"null", "array of objects"),
        (b"[]", "empty"),
        (b"[1]", "Record 0 is a number"),
        (b'[{"a":1}, "x"]', "Record 1 is a string"),
        (b"[{},null]", "Record 1 is null"),
        (b"[{},{},[{}]]", "Record 2 is an array"),
        (b"[{},\n true]", "Record 1 is a boolean"),
        (b'{"a":1}\n[{"a":1}]', "Line 2 is an array"),
        (b'{"a":1}\n\n7', "Line 3 is a number"),
        (b'{"a":1}{"a":2}', "Line 1 has 2 values"),
        (b'{"a":1}{"a":2}\n\n', "Line 1 has 2 values"),
        (b'{"a":1}\n{"a":2} {"a":3}', "Line 2 has 2 values"),
        (b'{"a":1}\r{"a":2}', "Line 1 has 2 values"),
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
