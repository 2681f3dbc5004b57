"""Fault G4: an encoded body is inflated within the limits of a plain one, whatever is in it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import pytest

from penstock.base.limits import DEFLATED_SLICE_BYTES, INFLATED_SLICE_BYTES, Limits
from penstock.base.zstandard import zstd
from penstock.http.content_coding import inflate

from .conftest import MakeFace
from .harness import Face, as_lines

RECORDS = [{"n": n, "text": "x" * (n % 50)} for n in range(200)]
PLAIN = json.dumps(RECORDS).encode()
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
}
codings = pytest.mark.parametrize("coding", list(ENCODE))


def checked_zstd(content: bytes) -> bytes:
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


@codings
def test_records_arrive_as_if_they_had_been_sent_plain(face: Face, coding: str) -> None:
    pipeline = face.create()
    assert face.ingest(pipeline, ENCODE[coding](PLAIN), {"content-encoding": coding}).result == {"committed": 200}
    assert (
        face.ingest(pipeline, ENCODE[coding](b'{"n":1}'), {"content-encoding": f" {coding.upper()} "}).status == 200
    )
    assert face.inflight_bytes == 0
    assert face.drain() == [*as_lines(RECORDS), b'{"n":1}']


@codings
@pytest.mark.parametrize("sizes", [[1, 1, 1], [40]])
def test_a_body_in_pieces_is_put_together_first(face: Face, coding: str, sizes: list[int]) -> None:
    body = ENCODE[coding](PLAIN)
    exchange = face.open("POST", f"/ingest/{face.create()}", {"content-encoding": coding})
    for size in sizes:
        exchange.send(body[:size])
        body = body[size:]
    exchange.send(body, more=False)
    answer = exchange.answer()
    assert answer is not None and answer.result == {"committed": 200}


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "gzip,identity", "gzip;q=1", "zlib", "x" * 500])
def test_a_coding_that_is_not_taken_gets_415_which_names_those_that_are(face: Face, coding: str) -> None:
    answer = face.ingest(face.create(), PLAIN, {"content-encoding": coding})
    status, _, message = answer.ingest_error
    assert status == 415
    assert message.startswith(f"Content-Encoding {coding[:64]!r} ")
    assert message.endswith("one of gzip, zstd, deflate.")
    assert answer.headers["accept-encoding"] == "gzip, zstd, deflate"
    assert face.drain() == []


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_that_says_it_is_not_encoded_is_taken(face: Face, coding: str) -> None:
    assert face.ingest(face.create(), PLAIN, {"content-encoding": coding}).status == 200


@codings
def test_g4_a_bomb_is_refused_at_the_limit_of_what_it_inflates_to(make_face: MakeFace, coding: str) -> None:
    face = make_face(Limits(body_bytes_max=100_000))
    bomb = ENCODE[coding](b"[" + b" " * 50_000_000 + b"{}]")
    assert len(bomb) < 60_000
    answer = face.ingest(face.create(), bomb, {"content-encoding": coding})
    status, _, message = answer.ingest_error
    assert status == 413
    assert message.startswith("The body is larger than body_bytes_max, 100000 bytes")
    assert face.inflight_bytes == 0
    assert face.drain() == []


@codings
def test_g4_what_a_body_inflates_to_counts_against_the_memory_for_bodies(make_face: MakeFace, coding: str) -> None:
    face = make_face(Limits(inflight_bytes_max=300_000))
    answer = face.ingest(face.create(), ENCODE[coding](b" " * 4_000_000), {"content-encoding": coding})
    assert answer.ingest_error[0] == 429
    assert face.inflight_bytes == 0


@codings
def test_g4_the_limit_holds_for_the_encoded_body_too(make_face: MakeFace, coding: str) -> None:
    face = make_face(Limits(body_bytes_max=10))
    answer = face.ingest(face.create(), ENCODE[coding](b'{"n":1}') + b"x" * 10, {"content-encoding": coding})
    assert answer.ingest_error[0] == 413


@codings
def test_g4_a_body_encoded_twice_is_decoded_once(face: Face, coding: str) -> None:
    body = ENCODE[coding](ENCODE[coding](PLAIN))
    status, code, message = face.ingest(face.create(), body, {"content-encoding": coding}).ingest_error
    assert (status, code) == (400, 1003)
    assert message.startswith("The body ")


@codings
@pytest.mark.parametrize("kept", [0, 1, 2, 5, 10, 50, -9, -8, -5, -4, -1])
def test_g4_a_body_that_ends_too_early_gets_400(face: Face, coding: str, kept: int) -> None:
    body = ENCODE[coding](PLAIN)[:kept]
    answer = face.ingest(face.create(), body, {"content-encoding": coding})
    status, code, message = answer.ingest_error
    assert (status, code) == (400, 1003)
    assert message.startswith(f"The body is not what its Content-Encoding {coding!r} promises: ")
    assert face.drain() == []


@codings
@pytest.mark.parametrize("more", [b"x", b"\n", b"\x00" * 100_000, None], ids=["byte", "newline", "zeros", "itself"])
def test_g4_more_after_the_end_gets_400(face: Face, coding: str, more: bytes | None) -> None:
    body = ENCODE[coding](PLAIN)
    answer = face.ingest(face.create(), body + (body if more is None else more), {"content-encoding": coding})
    status, code, message = answer.ingest_error
    assert (status, code) == (400, 1003)
    assert message.endswith("more follows after its end. Nothing was stored.")
    assert face.drain() == []


@pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", checked_zstd)]
)
def test_g4_every_byte_that_is_changed_is_noticed_or_means_nothing(
    face: Face, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    pipeline, body, taken = face.create(), encode(PLAIN[:-1] + b',{"end":1}]'), 0
    for place in range(len(body)):
        damaged = body[:place] + bytes([body[place] ^ 0x55]) + body[place + 1 :]
        answer = face.ingest(pipeline, damaged, {"content-encoding": coding})
        assert answer.status in (200, 400), place
        taken += answer.status == 200
    assert taken < 10  # of a gzip's header nobody checks the time and the system
    assert face.drain() == [*as_lines(RECORDS), b'{"end":1}'] * taken


@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80])
def test_g4_reserved_flags_of_gzip_get_400(face: Face, flag: int) -> None:
    body = gzip.compress(PLAIN)
    body = body[:3] + bytes([flag]) + body[4:]
    status, code, message = face.ingest(face.create(), body, {"content-encoding": "gzip"}).ingest_error
    assert (status, code) == (400, 1003) and "reserved flags" in message


def test_g4_a_zstd_window_larger_than_rfc_9659_allows_gets_400(face: Face) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    body = compressor.compress(b"[{}]" + b" " * 1_000) + compressor.compress(b" " * 1_000_000) + compressor.flush()
    status, code, message = face.ingest(face.create(), body, {"content-encoding": "zstd"}).ingest_error
    assert (status, code) == (400, 1003)
    assert "too much memory" in message


@codings
def test_g4_no_step_gives_more_than_a_slice(coding: str) -> None:
    pieces = list(inflate(coding, ENCODE[coding](b"\0" * 10_000_000)))
    assert sum(map(len, pieces)) == 10_000_000
    assert max(map(len, pieces)) <= INFLATED_SLICE_BYTES


def test_g4_no_step_takes_more_than_a_slice() -> None:
    """Blocks without contents cost time and give nothing."""
    nothing = b"\x00\x00\x00\xff\xff" * 40_000
    body = b"\x78\x9c" + nothing + b"\x01\x00\x00\xff\xff" + b"\x00\x00\x00\x01"
    assert len(list(inflate("deflate", body))) >= len(body) // DEFLATED_SLICE_BYTES


@codings
def test_others_are_answered_while_a_large_body_is_inflated(face: Face, coding: str) -> None:
    pipeline = face.create()
    large = face.open("POST", f"/ingest/{pipeline}", {"content-encoding": coding})
    small = face.open("POST", f"/ingest/{pipeline}")
    order: list[str] = []
    large.on_answer(lambda: order.append("large"))
    small.on_answer(lambda: order.append("small"))
    large.push(ENCODE[coding](b" " * 4_900_000 + b"{}"))
    small.push(b"{}")
    for exchange in (large, small):
        answer = exchange.answer()
        assert answer is not None and answer.status == 200
    assert order == ["small", "large"]
