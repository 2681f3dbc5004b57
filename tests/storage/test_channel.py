"""A channel keeps order and credit, whatever comes when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from penstock.base.errors import Unavailable
from penstock.base.limits import STREAM_CHUNK_BYTES_MAX, STREAM_WINDOW_BYTES
from penstock.storage.channel import Channel, Frame, linked

CHUNK = bytes(STREAM_CHUNK_BYTES_MAX)


class Wire:
    """The frames that a channel has sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.forgotten = 0
        self.channel = Channel(lambda frame, payload: self.sent.append((frame, payload)), self._forget)

    def _forget(self) -> None:
        self.forgotten += 1

    def kinds(self) -> list[int]:
        return [frame for frame, _ in self.sent]


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(5):
            await main()

    asyncio.run(bounded())


def test_a_writer_stops_when_its_credit_is_used_up_and_goes_on_with_more() -> None:
    async def main() -> None:
        wire = Wire()
        for _ in range(STREAM_WINDOW_BYTES // len(CHUNK)):
            await wire.channel.write(CHUNK)
        writing = asyncio.ensure_future(wire.channel.write(b"x"))
        await asyncio.sleep(0)
        assert not writing.done()
        wire.channel.on_frame(Frame.CREDIT, (1).to_bytes(4, "little"))
        await writing
        assert wire.sent[-1] == (Frame.CHUNK, b"x")

    run(main)


def test_a_reader_gives_back_what_it_has_taken_and_never_more() -> None:
    async def main() -> None:
        wire = Wire()
        for _ in range(STREAM_WINDOW_BYTES // len(CHUNK)):
            wire.channel.on_frame(Frame.CHUNK, CHUNK)
        assert wire.channel.buffered_bytes == STREAM_WINDOW_BYTES
        while wire.channel.buffered_bytes:
            await wire.channel.read()
        assert sum(int.from_bytes(payload, "little") for _, payload in wire.sent) == STREAM_WINDOW_BYTES
        assert set(wire.kinds()) == {Frame.CREDIT}

    run(main)


def test_a_writer_that_is_not_read_is_told_once_and_its_end_goes_nowhere() -> None:
    async def main() -> None:
        wire, told = Wire(), []
        wire.channel.on_unread = lambda: told.append(1)
        wire.channel.on_frame(Frame.UNREAD, b"")
        wire.channel.on_frame(Frame.UNREAD, b"")
        wire.channel.end(b"failure")
        assert told == [1] and wire.channel.unread and wire.sent == []

    run(main)


def test_it_is_forgotten_once_when_both_directions_have_ended_and_the_answer_is_there() -> None:
    async def main() -> None:
        wire = Wire()
        wire.channel.end()
        wire.channel.on_frame(Frame.ANSWER, b"answer")
        assert await wire.channel.answer() == b"answer" and not wire.forgotten
        wire.channel.on_frame(Frame.END, b"")
        wire.channel.on_frame(Frame.UNREAD, b"")
        assert wire.forgotten == 1
        assert await wire.channel.read() is None

    run(main)


def test_who_waits_is_told_when_the_connection_is_lost_and_what_is_not_whole_is_dropped() -> None:
    async def main() -> None:
        wire, told = Wire(), []
        wire.channel.on_unread = lambda: told.append(1)
        waiting = [asyncio.ensure_future(wire.channel.answer()), asyncio.ensure_future(wire.channel.read())]
        await asyncio.sleep(0)
        wire.channel.on_frame(Frame.CHUNK, b"part")
        wire.channel.fail(Unavailable("lost"))
        with pytest.raises(Unavailable):
            await waiting[0]
        await asyncio.wait(waiting)
        with pytest.raises(Unavailable):
            await wire.channel.read()
        assert told == [1] and wire.forgotten == 1
        wire.channel.end()
        wire.channel.stop_reading()
        assert wire.sent == [] and wire.forgotten == 1

    run(main)


def test_a_stream_that_has_arrived_whole_survives_the_connection() -> None:
    async def main() -> None:
        wire = Wire()
        wire.channel.on_frame(Frame.CHUNK, b"all")
        wire.channel.on_frame(Frame.END, b"")
        wire.channel.fail(Unavailable("lost"))
        assert [await wire.channel.read(), await wire.channel.read()] == [b"all", None]

    run(main)


def test_a_caller_that_gives_up_says_so_and_is_forgotten() -> None:
    async def main() -> None:
        wire = Wire()
        wire.channel.abandon(b"gave up")
        assert wire.sent == [(Frame.END, b"gave up"), (Frame.UNREAD, b"")]
        assert wire.channel.unread and wire.forgotten == 1

    run(main)


def test_linked_channels_hand_over_everything_and_let_go_of_each_other() -> None:
    async def main() -> None:
        writer, reader = linked()

        async def write() -> None:
            for _ in range(100):
                await writer.write(CHUNK)
            writer.end(b"failure")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            size = 0
            while (chunk := await reader.read()) is not None:
                size += len(chunk)
                assert reader.buffered_bytes <= STREAM_WINDOW_BYTES
        assert size == 100 * len(CHUNK) and reader.failure == b"failure"
        reader.stop_reading()

    run(main)
