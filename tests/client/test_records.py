"""What can be sent, and how it is cut into bodies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.base.errors import Invalid, TooLarge
from penstock.client.records import body_of, encode_records, split

BYTES_MAX = 1_000


class Click(msgspec.Struct):
    user: str
    at: datetime


@dataclass
class View:
    page: str


class Pair(msgspec.Struct, array_like=True):
    left: int


def test_dicts_structs_dataclasses_and_json_are_taken_mixed() -> None:
    click = Click("u1", datetime(2026, 11, 25, 1, 2, 3))
    assert encode_records([{"a": 1}, click, View("/"), b' {"raw": 1.0} '], BYTES_MAX) == [
        b'{"a":1}',
        b'{"user":"u1","at":"2026-11-25T01:02:03"}',
        b'{"page":"/"}',
        b'{"raw": 1.0}',
    ]


def test_bytes_are_the_json_of_an_array_whose_elements_stay_as_they_are() -> None:
    assert encode_records(b'[{"a": 1.50}, {"b":[2 ,3]}]', BYTES_MAX) == [b'{"a": 1.50}', b'{"b":[2 ,3]}']


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (1, "is a int"),
        ([1], "is a list"),
        ("text", "is a str"),
        (None, "is a NoneType"),
        (Pair(1), "is a Pair"),
        ({"a": object()}, "is no JSON"),
        (b"[1]", "is not the JSON of an object"),
        (b'{"a":', "is not the JSON of an object"),
        (b'{"a":1}{"b":2}', "is not the JSON of an object"),
        (b'{"a":"\xff"}', "is not UTF-8: byte 6"),
        (b"{" + b'"a":{' * 10_000, "is not the JSON of an object"),
    ],
)
def test_what_is_no_object_is_refused_with_its_number(record: object, why: str) -> None:
    with pytest.raises(Invalid, match=f"Record 1 {why}"):
        encode_records([{"fine": True}, record], BYTES_MAX)


@pytest.mark.parametrize("records", ['[{"a":1}]', {"a": 1}, 7, b"{}", b"[1"])
def test_what_is_no_list_of_records_is_refused(records: object) -> None:
    with pytest.raises(Invalid):
        encode_records(records, BYTES_MAX)  # type: ignore[arg-type]


def test_a_record_that_no_body_can_hold_is_refused_and_one_that_just_fits_is_taken() -> None:
    fits = {"a": "x" * (BYTES_MAX - len('[{"a":""}]'))}
    assert len(body_of(encode_records([fits], BYTES_MAX))) == BYTES_MAX
    with pytest.raises(TooLarge, match="Record 0 has 999 bytes; body_bytes_max, 1000"):
        encode_records([fits | {"a": fits["a"] + "x"}], BYTES_MAX)


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(400, 1_000))
def test_parts_hold_all_records_in_order_none_too_large_and_none_smaller_than_need_be(
    sizes: list[int], bytes_max: int
) -> None:
    records = [json.dumps({"n": n, "x": "x" * size}).encode() for n, size in enumerate(sizes)]
    parts = list(split(records, bytes_max))
    assert [record for part in parts for record in part] == records
    assert all(len(body_of(part)) <= bytes_max for part in parts)
    for part, following in pairwise(parts):
        assert len(body_of([*part, following[0]])) > bytes_max
