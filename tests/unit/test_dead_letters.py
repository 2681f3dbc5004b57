"""The lines of dead-letter files."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.base.limits import DEAD_DETAIL_LENGTH_MAX
from penstock.pipelines.dead_letters import dead_letter_line, read_dead_letters

RECORD = b'{"price": 1.10,"big":123456789012345678901,"text":"\\n\\u2028","n":1e400}'
RECEIVED_MS = 1_795_442_706_789

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def line(record: bytes = RECORD, detail: str = "KeyError: 'user'", transform: str = "clean") -> bytes:
    return dead_letter_line(record, "error", detail, 3, RECEIVED_MS, transform, "0123456789ab")


def test_a_dead_letter_is_one_line_with_the_record_as_it_came() -> None:
    written = line()
    assert written.count(b"\n") == 1 and written.endswith(b"\n") and RECORD in written
    assert json.loads(written) == {
        "reason": "error",
        "detail": "KeyError: 'user'",
        "pipeline_version": 3,
        "received_at": "2026-11-23T14:05:06.789Z",
        "record": json.loads(RECORD),
        "transform": "clean",
        "code_version": "0123456789ab",
    }


def test_a_reason_that_is_no_transforms_names_none() -> None:
    written = json.loads(dead_letter_line(b"{}", "partition_time", "no field", 1, 0, "", ""))
    assert set(written) == {"reason", "detail", "pipeline_version", "received_at", "record"}


def test_the_detail_is_bounded() -> None:
    assert len(json.loads(line(detail="x" * 100_000))["detail"]) == DEAD_DETAIL_LENGTH_MAX


@given(st.lists(st.tuples(st.dictionaries(st.text(), values), st.text()), max_size=5))
def test_what_was_written_is_read_again(letters: list[tuple[dict[str, object], str]]) -> None:
    records = [json.dumps(record).encode() for record, _ in letters]
    content = b"".join(line(record, detail) for record, (_, detail) in zip(records, letters, strict=True))
    read = list(read_dead_letters(content))
    assert [bytes(letter.record) for letter in read] == records
    assert [letter.detail for letter in read] == [detail for _, detail in letters]


def test_white_space_within_a_record_cuts_no_line() -> None:
    (letter,) = read_dead_letters(line(b'{"a":\r1,\x0b"b":2}'.replace(b"\x0b", b"\t")))
    assert bytes(letter.record) == b'{"a":\r1,\t"b":2}'


def test_what_is_no_dead_letter_file_is_an_error() -> None:
    with pytest.raises(msgspec.DecodeError):
        list(read_dead_letters(b'{"n":1}\n'))
