"""What a listener sees, and what it misses."""

from __future__ import annotations

import asyncio

import pytest

from penstock.base.errors import Overloaded
from penstock.base.limits import STREAM_CHUNK_BYTES_MAX, TAIL_BUFFER_BYTES, TAIL_LISTENERS_MAX
from penstock.base.rng import seeded_rng
from penstock.pipelines.tail import Listeners


def run(listeners: Listeners, sample: float, *bodies: bytes) -> list[bytes]:
    """The lines that a listener gets which reads only after all was offered."""

    async def go() -> list[bytes]:
        listener = listeners.open(sample)
        for body in bodies:
            listeners.offer(body)
        listeners.end()
        return b"".join([chunk async for chunk in listener]).splitlines()

    return asyncio.run(go())


def test_each_record_is_a_line_as_it_came() -> None:
    lines = run(Listeners(seeded_rng(1)), 1, b'{"n":1}\n{"a": "\\r\\u0000"}\n', b'{"n":3.0}\n')
    assert lines == [b'{"record":{"n":1}}', b'{"record":{"a": "\\r\\u0000"}}', b'{"record":{"n":3.0}}']


def test_a_sample_is_drawn_record_by_record() -> None:
    lines = run(Listeners(seeded_rng(1)), 0.1, *[b"{}\n" * 100] * 100)
    assert 800 < len(lines) < 1_200


def test_i6_what_does_not_fit_is_dropped_and_counted_in_its_place() -> None:
    record = b'"' + b"x" * 100_000 + b'"'
    fit = TAIL_BUFFER_BYTES // len(record)
    *records, note = run(Listeners(seeded_rng(1)), 1, *[record + b"\n"] * (fit + 7), b"{}\n")
    assert records == [b'{"record":%b}' % record] * fit
    assert note == b'{"dropped":8}'


def test_chunks_are_not_much_longer_than_a_stream_takes_at_once() -> None:
    async def go() -> list[bytes]:
        listeners = Listeners(seeded_rng(1))
        listener = listeners.open(1)
        listeners.offer(b'{"n":12345}\n' * 20_000)
        listeners.end()
        return [chunk async for chunk in listener]

    chunks = asyncio.run(go())
    assert all(len(chunk) < STREAM_CHUNK_BYTES_MAX + 100 for chunk in chunks)
    assert b"".join(chunks) == b'{"record":{"n":12345}}\n' * 20_000


def test_i6_listeners_are_bounded_and_make_room_when_they_end() -> None:
    listeners = Listeners(seeded_rng(1))
    opened = [listeners.open(1) for _ in range(TAIL_LISTENERS_MAX)]
    with pytest.raises(Overloaded, match="watch this pipeline already"):
        listeners.open(1)
    asyncio.run(opened[0].aclose())
    listeners.open(1)
    listeners.end()
    assert not listeners
