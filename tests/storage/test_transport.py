"""Calls over Unix sockets: in order, whole, and never left waiting when the sibling is gone."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from penstock.base.errors import PenstockError, TooLarge, Unavailable
from penstock.base.limits import FRAME_BYTES_MAX
from penstock.storage.transport import UnixTransport


class Sibling:
    """Executor 1, which can be killed and started again. It answers with what it was asked, backwards."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.requests: list[bytes] = []
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()
        self.transport: UnixTransport

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        (Path(self.folder) / "executor-1.sock").unlink(missing_ok=True)
        self.transport = UnixTransport(self.folder, 1, tasks)
        await self.transport.serve(self._answer)

    async def _answer(self, payload: bytes) -> bytes:
        self.requests.append(payload)
        self.asked.set()
        await self.may_answer.wait()
        return payload[::-1]


@asynccontextmanager
async def executor(folder: str, slot: int) -> AsyncIterator[tuple[UnixTransport, asyncio.TaskGroup]]:
    """A transport in a life of its own; leaving ends the life as a kill would, connections and all."""
    tasks = asyncio.TaskGroup()
    async with tasks:
        transport = UnixTransport(folder, slot, tasks)
        yield transport, tasks
        transport.close()


def run(tmp_path: Path, main: Callable[[UnixTransport, Sibling, asyncio.TaskGroup], Awaitable[None]]) -> None:
    async def live() -> None:
        async with asyncio.timeout(20), executor(str(tmp_path), 0) as (transport, tasks):
            sibling = Sibling(str(tmp_path))
            await sibling.start(tasks)
            await main(transport, sibling, tasks)
            sibling.may_answer.set()
            sibling.transport.close()

    asyncio.run(live())


def start(call: Awaitable[bytes]) -> asyncio.Future[bytes]:
    return asyncio.ensure_future(call)


async def error_of(call: Awaitable[bytes]) -> PenstockError:
    with pytest.raises(PenstockError) as caught:
        await call
    return caught.value


def test_answers_find_the_questions_they_belong_to(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        questions = [b"%d" % n * (n % 50) for n in range(500)]
        answers = await asyncio.gather(*(transport.request(1, question) for question in questions))
        assert answers == [question[::-1] for question in questions]

    run(tmp_path, main)


def test_requests_arrive_in_the_order_in_which_they_were_made_also_while_connecting(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        calls = []
        for n in range(200):
            calls.append(start(transport.request(1, b"%d" % n)))
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        assert sibling.requests == [b"%d" % n for n in range(200)]

    run(tmp_path, main)


def test_big_and_empty_frames_arrive_whole(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        sizes = [0, 1, 65_535, 3_000_001, 0, 12_000_000]
        payloads = [bytes(range(251)) * (size // 251 + 1) for size in sizes]
        payloads = [payload[:size] for payload, size in zip(payloads, sizes, strict=True)]
        answers = await asyncio.gather(*(transport.request(1, payload) for payload in payloads))
        assert answers == [payload[::-1] for payload in payloads]
        assert sibling.requests == payloads

    run(tmp_path, main)


def test_a_request_over_the_limit_is_refused_and_harms_nobody_else(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        sibling.may_answer.clear()
        other = start(transport.request(1, b"ab"))
        await sibling.asked.wait()
        error = await error_of(transport.request(1, bytes(FRAME_BYTES_MAX + 1)))
        assert isinstance(error, TooLarge) and str(FRAME_BYTES_MAX) in error.message
        sibling.may_answer.set()
        assert await other == b"ba"

    run(tmp_path, main)


def test_who_claims_a_frame_over_the_limit_is_cut_off(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "executor-1.sock")
        writer.write(struct.pack("<IQ", FRAME_BYTES_MAX + 1, 8) + b"x")
        with pytest.raises(ConnectionResetError):
            assert await reader.read() == b""
            raise ConnectionResetError  # cut off is cut off, however it shows
        writer.close()
        assert sibling.requests == []
        assert await transport.request(1, b"ab") == b"ba"

    run(tmp_path, main)


def test_a_frame_that_comes_byte_by_byte_is_one_frame(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "executor-1.sock")
        for byte in struct.pack("<IQ", 3, 8) + b"abc" + struct.pack("<IQ", 1, 16) + b"d":
            writer.write(bytes([byte]))
            await writer.drain()
        expected = struct.pack("<IQ", 3, 9) + b"cba" + struct.pack("<IQ", 1, 17) + b"d"
        assert await reader.readexactly(len(expected)) == expected
        writer.close()

    run(tmp_path, main)


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        error = await error_of(transport.request(7, b"hello"))
        assert isinstance(error, Unavailable) and error.retry_after_s

    run(tmp_path, main)


def test_nobody_there_is_unavailable_for_streams_too(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        channels = [transport.open(7, b"hello") for _ in range(3)]
        for channel in channels:
            channel.end()
            channel.stop_reading()
        for channel in channels:
            error = await error_of(channel.answer())
            assert isinstance(error, Unavailable) and error.retry_after_s

    run(tmp_path, main)


def test_a_sibling_that_dies_fails_the_calls_under_way_and_is_found_again(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, _sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        connected: list[asyncio.StreamWriter] = []

        async def mortal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.append(writer)
            await reader.readexactly(12 + 3)
            writer.transport.abort()

        server = await asyncio.start_unix_server(mortal, tmp_path / "executor-2.sock")
        calls = [start(transport.request(2, b"abc")) for _ in range(3)]
        for call in calls:
            assert isinstance(await error_of(call), Unavailable)
        assert len(connected) == 1
        assert isinstance(await error_of(transport.request(2, b"abc")), Unavailable)
        assert len(connected) == 2  # it tried again
        server.close()
        (tmp_path / "executor-2.sock").unlink(missing_ok=True)

        async def backwards(payload: bytes) -> bytes:
            return payload[::-1]

        reborn = UnixTransport(str(tmp_path), 2, tasks)
        await reborn.serve(backwards)
        assert await transport.request(2, b"abc") == b"cba"
        reborn.close()

    run(tmp_path, main)


def test_a_connection_that_is_lost_at_once_is_not_waited_for(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, _sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        server = await asyncio.start_unix_server(rude, tmp_path / "executor-2.sock")
        async with asyncio.timeout(5):  # a call gives up by itself after 30 s only
            for _ in range(20):
                assert isinstance(await error_of(transport.request(2, b"abc")), Unavailable)
        server.close()

    run(tmp_path, main)


def test_a_caller_that_gives_up_disturbs_nobody(tmp_path: Path) -> None:
    async def main(transport: UnixTransport, sibling: Sibling, tasks: asyncio.TaskGroup) -> None:
        sibling.may_answer.clear()
        gone = start(transport.request(1, b"gone"))
        await sibling.asked.wait()
        stays = start(transport.request(1, b"stays"))
        gone.cancel()
        sibling.may_answer.set()
        assert await stays == b"syats"

    run(tmp_path, main)
