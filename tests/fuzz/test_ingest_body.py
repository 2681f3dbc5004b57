"""Requests to an ingest endpoint, made at random: none is a fault of the server, and it takes exactly what another
reader, slower and simpler, takes for records. What it took is in the files, to the letter.

`scripts/test tests/fuzz --fuzz-cases 100000` sends that many.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.http.harness import Answer, Face
from tests.http.json_reference import read, records_of

from penstock.base.limits import Limits
from penstock.base.zstandard import zstd

_ENCODE = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}

# -- what is sent -----------------------------------------------------------------------------------------

#: Pieces that JSON is made of, and some that it is not: joined at random they are JSON often enough.
_PIECES = st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"{},", b" ", b"\n", b"\r\n", b"\r", b"\t", b"\x00", b"\x0b"),
        *(b"-", b"0", b"17", b"01", b".5", b"e+3", b"1e999", b"9" * 400, b"true", b"null", b"NaN", b"Infinity"),
        *(b"\xff", b"\xc3\xa9", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80", b"\xe2\x80\xa8"),
        *(b"\\", b"\\n", b"\\u", b"\\u0000", b"\\ud83d", b"\\ude00", b"\\u12G4", b"//", b"'a'", b"{}\n{}", b"{}{}"),
        *(b'{"a":[1,{"b":null}]}', b'{ "k" :\n[ true ]\r\n}', b'"k":', b"[" * 50, b"]" * 50, b'{"a":' * 20),
    ]
)
_RECORD = st.sampled_from(
    [
        *(
            b"{}",
            b'{"a":-1.5e3}',
            b'{"a":\n["x"]}',
            b'{"\\u00e9":{"b":[[]],"b":"\\ud83d\\ude00"}}',
            b' {"a" : 1 } ',
        ),
        *(b'{"a":1,"a":2}', b'{"n":' + b"7" * 300 + b"}", b'{"d":' + b"[" * 60 + b"]" * 60 + b"}", b"{\r}"),
    ]
)
_MANY = st.lists(_RECORD, min_size=1, max_size=5)
_ARRAY = _MANY.map(lambda records: b"[" + b",".join(records) + b"]")
_LINES = st.tuples(_MANY, st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n\t"])).map(
    lambda pair: pair[1].join(pair[0])
)


@st.composite
def _damaged(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    body = draw(bodies)
    at, removed = draw(st.integers(0, len(body))), draw(st.integers(0, 2))
    return body[:at] + draw(_PIECES) + body[at + removed :]


_BODY = st.one_of(
    _ARRAY,
    _ARRAY,
    _LINES,
    _LINES,
    _RECORD,
    _damaged(_ARRAY),
    _damaged(_LINES),
    st.lists(_PIECES, max_size=10).map(b"".join),
    st.binary(max_size=60),
)


@dataclass
class Case:
    body: bytes
    pieces: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    case = Case(draw(_BODY))
    kind = draw(st.integers(0, 9))
    if kind < 5:
        coding = draw(st.sampled_from(sorted(_ENCODE)))
        case.body = _ENCODE[coding](case.body)
        case.headers["content-encoding"] = coding
        if kind == 1:
            case.body = case.body[: draw(st.integers(0, len(case.body)))]
        elif kind == 2:
            case.body += draw(st.binary(min_size=1, max_size=4))
        elif kind == 3:
            at = draw(st.integers(0, len(case.body) - 1))
            case.body = case.body[:at] + bytes([draw(st.integers(0, 255))]) + case.body[at + 1 :]
        elif kind == 4:
            case.headers["content-encoding"] = draw(
                st.sampled_from([*sorted(_ENCODE), "br", "gzip, zstd", "identity"])
            )
    if draw(st.booleans()):
        case.headers |= draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "content-type": st.sampled_from(["text/csv", "application/json; charset=utf-16", "\xff", ""]),
                    "origin": st.sampled_from(["https://a.example", "null", "\xff" * 9, ""]),
                    "authorization": st.sampled_from(["Bearer x", "Bearer pst_" + "0" * 64, "\xff", "Basic"]),
                    "expect": st.just("100-continue"),
                    "idempotency-key": st.sampled_from(["k1", "k2", "k" * 255, "k" * 256, "", "\x7f", "\xe9"]),
                },
            )
        )
    if draw(st.integers(0, 3)) == 0:
        case.pieces = draw(st.lists(st.integers(0, 40), max_size=3))
    return case


# -- what must come of it ---------------------------------------------------------------------------------


def decoded(case: Case) -> bytes | None:
    """The body without its encoding, by the standard library. None if it is not what it says."""
    coding = case.headers.get("content-encoding", "identity")
    if coding == "identity":
        return case.body
    if coding == "zstd":
        decompressor: Any = zstd.ZstdDecompressor()
    else:
        decompressor = zlib.decompressobj(15 if coding == "deflate" else 31)
    try:
        content: bytes = decompressor.decompress(case.body)
    except (zlib.error, zstd.ZstdError):
        return None
    return content if decompressor.eof and not decompressor.unused_data else None


class Model:
    """What a pipeline should have, request by request."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.statuses: Counter[int] = Counter()
        self._keys: dict[str, list[Any]] = {}

    def check(self, case: Case, answer: Answer) -> None:
        self.statuses[answer.status] += 1
        if answer.status != 200:
            assert set(answer.json) == {"success", "error"} and answer.json["error"]["message"]
        key = case.headers.get("idempotency-key")
        if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
            assert answer.status == 400
            return
        if case.headers.get("content-encoding") in ("br", "gzip, zstd"):
            assert answer.status == 415
            return
        content = decoded(case)
        records = None if content is None else records_of(content)
        if records is None:
            assert answer.status == 400
        elif key in self._keys:
            # White space between tokens makes another request of it, or not.
            assert answer.status == 422 or self._keys[key] == records
            assert answer.status in (200, 422)
        else:
            assert answer.result == {"committed": len(records)}
            self.taken.extend(records)
            if key is not None:
                self._keys[key] = records


def send(face: Face, pipeline: str, case: Case) -> Answer:
    exchange = face.open("POST", f"/ingest/{pipeline}", case.headers)
    body = case.body
    for size in case.pieces:
        exchange.send(body[:size])
        body = body[size:]
    exchange.push(body)
    answer = exchange.answer()
    assert answer is not None
    return answer


def test_g3_g4_whatever_is_sent_is_taken_as_another_reader_would_or_refused(tmp_path: Path, cases: int) -> None:
    model = Model()
    with Face(tmp_path, Limits()) as face:
        source = [{"type": "http", "cors": {"origins": ["https://a.example"]}}]
        pipeline = face.create(source=source)

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(_cases())
        def run(case: Case) -> None:
            answer = send(face, pipeline, case)
            assert answer.status < 500, answer
            model.check(case, answer)
            assert face.inflight_bytes == 0

        run()
        lines = face.drain()
    assert [read(line) for line in lines] == model.taken
    assert min(model.statuses[200], model.statuses[400]) > cases // 10, model.statuses
    print(json.dumps(model.statuses))
