"""Fault G3: whatever a client calls JSON is taken or refused, never a fault of the server; and what was taken comes
out as one line per record that says what the client said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.base.errors import Invalid
from penstock.pipelines.records import parse_batch

from .harness import Face
from .json_reference import read, records_of

BIG = b"9" * 5_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'[{"a":' * 100_000,
        b'[{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
        b'[{"a":\n' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}]",
        b"\n" * 100_000,
        b'[{"a":NaN}]',
        b'[{"a":-Infinity}]',
        b'[{"a":01}]',
        b'[{"a":.5}]',
        b'[{"a":1.}]',
        b'[{"a":+1}]',
        b'[{"a":0x10}]',
        b'[{"a":"\xff"}]',
        b'[{"\xc3":1}]',
        b'[{"a":"\xed\xa0\x80"}]',
        b'[{"a":"\\ud800"}]',
        b'[{"a":"\\ude00\\ud83d"}]',
        b'[{"a":"\\x41"}]',
        b'[{"a":"\x00"}]',
        b'\x00[{"a":1}]',
        b'[{"a":1}]\x00',
        b'\xef\xbb\xbf[{"a":1}]',
        '[{"a":1}]'.encode("utf-16"),
        b"[{'a':1}]",
        b"[{a:1}]",
        b'[{"a":1},]',
        b'[{"a":1,}]',
        b'[{"a" 1}]',
        b'[{"a":1} {"b":2}]',
        b'[{"a":1}] // comment',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_g3_what_is_not_json_gets_400(face: Face, body: bytes) -> None:
    status, code, _ = face.ingest(face.create(), body).ingest_error
    assert (status, code) == (400, 1003)
    assert face.drain() == []


@pytest.mark.parametrize(
    "record",
    [
        b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"a":' + BIG + b"}",
        b'{"a":-' + BIG + b"." + BIG + b"e+" + BIG + b"}",
        b'{"a":1e400,"b":-0,"c":1.00E-05}',
        b'{"a":1,"a":2,"a":{"a":3,"a":4}}',
        b'{"":{"":""}}',
        b'{"a":"\\u0000\\ud83d\\ude00\\/\\n"}',
        '{"é":"😀\u2028\x85\x7f"}'.encode(),
        b'{ "a" :\t1 , "b" : [ ] }',
        b'{"a":"' + b"x" * 1_000_000 + b'"}',
        b"{" + b",".join(b'"k%d":null' % n for n in range(10_000)) + b"}",
    ],
    ids=lambda record: repr(record[:20]),
)
def test_g3_what_is_json_comes_out_to_the_letter(face: Face, record: bytes) -> None:
    assert face.ingest(face.create(), b"[" + record + b" ,\t" + record + b"]").result == {"committed": 2}
    assert face.drain() == [record, record]


def test_a_record_over_several_lines_is_written_on_one(face: Face) -> None:
    body = b'[\r\n  {\r\n    "a" : 1.50,\n    "a": [\n]\r\n, "t": "\\r\\n \\ud83d\\ude00"}\n,\n{}\n]'
    assert face.ingest(face.create(), body).result == {"committed": 2}
    assert face.drain() == [b'{"a":1.50,"a":[],"t":"\\r\\n \\ud83d\\ude00"}', b"{}"]


#: Pieces that JSON is made of, and some that it is not: joined at random they are JSON often enough.
_PIECES = st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"{},", b" ", b"\n", b"\r\n", b"\t", b"\x00", b"\x0b"),
        *(b"-", b"0", b"17", b"01", b".5", b"e+3", b"true", b"null", b"NaN", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80"),
        *(b"\\", b"\\n", b"\\u", b"\\ud83d", b"\\ude00", b'{"a":[1,{"b":null}]}', b'{ "k" :\n[ true ]\r\n}'),
    ]
)
_ANYTHING = st.lists(_PIECES, max_size=12).map(b"".join)
_RECORDS = st.sampled_from(
    [b"{}", b'{"a":-1.5e3}', b'{"a":\n["x"]}', b'{"\\u00e9":{"b":[[]],"b":"\\ud83d\\ude00"}}']
)
_RECORD_ARRAYS = st.lists(_RECORDS, min_size=1, max_size=4).map(lambda records: b"[" + b",".join(records) + b"]")
_RECORD_LINES = st.lists(_RECORDS, min_size=1, max_size=4).map(b"\n".join)


@st.composite
def _damaged(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    body = draw(bodies)
    for _ in range(draw(st.integers(0, 2))):
        at, removed = draw(st.integers(0, len(body))), draw(st.integers(0, 2))
        body = body[:at] + draw(_PIECES) + body[at + removed :]
    return body


def test_g3_whatever_comes_is_taken_as_another_reader_would_take_it(face: Face) -> None:
    pipeline, taken = face.create(), []

    @settings(max_examples=400, deadline=None, database=None)
    @given(_ANYTHING | _damaged(_RECORD_ARRAYS) | _damaged(_RECORD_LINES))
    def send(body: bytes) -> None:
        answer, records = face.ingest(pipeline, body), records_of(body)
        if records is not None:
            assert answer.result == {"committed": len(records)}
            taken.extend(records)
        else:
            status, code, _ = answer.ingest_error
            assert status == 400
            # Of what is neither JSON nor starts like an array, either may be said.
            assert code in ((1003,) if read(body) is None and body.lstrip()[:1] == b"[" else (1002, 1003))

    send()
    lines = face.drain()
    assert [read(line) for line in lines] == taken
    assert len(taken) > 20, "too few bodies were JSON to show anything"


def test_no_depth_of_nesting_is_a_fault_of_the_server() -> None:
    """Splitting and putting a record on one line have limits of their own; neither may show."""
    for depth in range(900, 1100):
        body = b'[{"a":\n' + b"[" * depth + b"]" * depth + b"}]"
        try:
            batch = parse_batch(body)
        except Invalid as error:
            assert error.message == "The body is nested too deeply."
        else:
            assert batch.ndjson.count(b"\n") == 1
