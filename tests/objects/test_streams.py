"""A method takes and gives streams of bytes: in order, no faster than they are read, and ending on both sides."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.base.errors import Conflict, Invalid, ObjectFailed, Overloaded, PenstockError, Unavailable
from penstock.base.limits import STREAM_CHUNK_BYTES_MAX, STREAM_UNREAD_MS_MAX, STREAM_WINDOW_BYTES
from penstock.objects import Chunks, Context, DurableObject, Stub
from penstock.objects.remote import Method

from .test_lifecycle import EVICTED_MS
from .world import World, error_of, key_of, run, start

both_sides = pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])
KIB = 1024


class Pipe(DurableObject[SimpleNamespace]):
    """`env.made` counts the bytes that left its generators, `env.log` tells of their ends."""

    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS notes (note)")
        env.made = getattr(env, "made", 0)

    async def count(self, n: int, size: int = 3) -> AsyncIterator[bytes]:
        try:
            for i in range(n):
                yield b"%0*d" % (size, i)
                self.env.made += size
        except BaseException as error:
            self.env.log.append(type(error).__name__)
            raise
        finally:
            self.env.log.append("closed")

    async def prepared(self, chunks: list[bytes]) -> AsyncIterator[bytes]:
        """A coroutine that gives an iterator."""
        await asyncio.sleep(0.001)
        return self._all(chunks)

    async def _all(self, chunks: list[bytes]) -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect(self, chunks: AsyncIterator[bytes], pause_ms: int = 0) -> bytes:
        parts = []
        async for chunk in chunks:
            parts.append(chunk)
            if pause_ms:
                await asyncio.sleep(pause_ms / 1000)
        return b"".join(parts)

    async def first(self, chunks: AsyncIterator[bytes]) -> bytes:
        """Reads one chunk and no more."""
        async for chunk in chunks:
            return chunk
        return b""

    async def stuck(self, chunks: AsyncIterator[bytes]) -> None:
        await asyncio.sleep(10)

    async def upper(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk.upper()

    async def maybe(self, chunks: AsyncIterator[bytes] | None = None) -> str:
        return "none" if chunks is None else (await self.collect(chunks)).decode()

    async def notes(self, n: int) -> AsyncIterator[bytes]:
        """Writes a note before each chunk and after the last."""
        for i in range(n):
            self.sql.exec("INSERT INTO notes VALUES (?1)", i)
            yield b"%d" % i
        self.sql.exec("INSERT INTO notes VALUES (?1)", n)

    def written(self) -> int:
        written: int = self.sql.exec("SELECT count(*) FROM notes").one()[0]
        return written

    async def fail_after(self, n: int, kind: str) -> AsyncIterator[bytes]:
        for i in range(n):
            yield b"%d" % i
        if kind == "ours":
            raise Overloaded("not now", retry_after_s=9)
        if kind == "abort":
            self.ctx.abort("enough")
        raise ZeroDivisionError("a bug")

    async def endless(self) -> AsyncIterator[bytes]:
        while True:
            self.env.log.append("waits")
            try:
                await asyncio.sleep(3_600)
            except BaseException as error:
                self.env.log.append(type(error).__name__)
                raise
            yield b"x"

    async def odd(self) -> AsyncIterator[bytes]:
        yield b""
        yield bytearray(b"ab")
        yield memoryview(b"cd")
        yield b"x" * (STREAM_CHUNK_BYTES_MAX + 1)
        yield b""

    async def no_bytes(self) -> AsyncIterator[bytes]:
        yield b"a"
        yield "text"  # type: ignore[misc]

    async def no_stream(self) -> AsyncIterator[bytes]:
        return 7  # type: ignore[return-value]

    def abort(self) -> None:
        self.ctx.abort("enough")

    def ping(self) -> str:
        return "pong"

    async def forward(self, name: str, n: int) -> bytes:
        """What it writes goes to another object, which gives it back."""

        async def mine() -> AsyncIterator[bytes]:
            for i in range(n):
                self.sql.exec("INSERT INTO notes VALUES (?1)", i)
                yield b"%d" % i

        collected: bytes = await self.ctx.namespace("Pipe").get_by_name(name).collect(mine())
        return collected

    async def read_two(self, name: str) -> list[str]:
        """Two streams in turn on one stub, and what becomes of the stub."""
        stub = self.ctx.namespace("Pipe").get_by_name(name)
        outcomes = []
        for kind in ("a bug", "abort", "ours"):
            try:
                async for _ in await stub.fail_after(1, kind):
                    pass
            except PenstockError as error:
                outcomes.append(error.message)
        return outcomes


def pipes(main: Any, slot: int = 0) -> None:
    async def live(world: World) -> None:
        await main(world, world.stub_on(slot, Pipe))

    run(live, Pipe, executors=2)


async def source(world: World, n: int, size: int = 3) -> AsyncIterator[bytes]:
    try:
        for i in range(n):
            yield b"%0*d" % (size, i)
            world.env.sent = getattr(world.env, "sent", 0) + size
    finally:
        world.log.append("source closed")


async def read(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [chunk async for chunk in stream]


async def read_to_error(stream: AsyncIterator[bytes]) -> tuple[list[bytes], PenstockError]:
    chunks = []
    try:
        async for chunk in stream:
            chunks.append(chunk)
    except PenstockError as error:
        return chunks, error
    raise AssertionError("it ended well")


# -- whole and in order ------------------------------------------------------------------------------------


@both_sides
def test_a_stream_arrives_whole_and_in_order(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        stream = await pipe.count(2_000, 700)
        assert isinstance(stream, Chunks)
        assert await read(stream) == [b"%0700d" % i for i in range(2_000)]
        assert await read(stream) == []
        assert await read(await pipe.count(0)) == []
        assert await read(await pipe.prepared([b"a", b"b"])) == [b"a", b"b"]

    pipes(main, slot)


@both_sides
def test_an_argument_arrives_whole_and_in_order(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        assert await pipe.collect(source(world, 2_000, 700)) == b"".join(b"%0700d" % i for i in range(2_000))
        assert await pipe.collect(chunks=source(world, 0)) == b""
        assert world.log == ["source closed"] * 2

    pipes(main, slot)


@both_sides
def test_a_stream_in_and_a_stream_out(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        async def letters() -> AsyncIterator[bytes]:
            for letter in "abc":
                yield letter.encode()

        assert await read(await pipe.upper(letters())) == [b"A", b"B", b"C"]

    pipes(main, slot)


@both_sides
def test_empty_chunks_are_left_out_and_long_ones_are_cut(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        chunks = await read(await pipe.odd())
        assert chunks == [b"ab", b"cd", b"x" * STREAM_CHUNK_BYTES_MAX, b"x"]

    pipes(main, slot)


@both_sides
def test_a_stream_that_may_be_missing(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        assert await pipe.maybe() == "none"
        assert await pipe.maybe(None) == "none"
        assert await pipe.maybe(source(world, 2)) == "000001"

    pipes(main, slot)


@both_sides
def test_many_streams_do_not_mix(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        streams = [read(await pipe.count(50, 100 + n)) for n in range(10)]
        for n, chunks in enumerate(await asyncio.gather(*streams)):
            assert chunks == [b"%0*d" % (100 + n, i) for i in range(50)]

    pipes(main, slot)


@both_sides
def test_calls_with_and_without_streams_arrive_in_order(slot: int) -> None:
    class Order(DurableObject[SimpleNamespace]):
        def plain(self, n: int) -> None:
            self.env.log.append(n)

        async def streams(self, n: int) -> AsyncIterator[bytes]:
            self.env.log.append(n)
            return _nothing()

    async def _nothing() -> AsyncIterator[bytes]:
        for chunk in ():
            yield chunk

    async def main(world: World) -> None:
        stub = world.stub_on(slot, Order)
        calls = [start(stub.streams(n) if n % 3 else stub.plain(n)) for n in range(60)]
        await asyncio.gather(*calls)
        assert world.log == list(range(60))

    run(main, Order, executors=2)


# -- backpressure ------------------------------------------------------------------------------------------


@both_sides
def test_a_reader_that_stops_stops_the_writer_within_the_window(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        stream = await pipe.count(1_000, 10 * KIB)
        await world.elapse(10_000)
        assert 0 < world.env.made <= STREAM_WINDOW_BYTES
        taken = 0
        while taken < 2 * STREAM_WINDOW_BYTES:
            taken += len(await anext(stream))
        await world.elapse(10_000)
        assert taken <= world.env.made <= taken + STREAM_WINDOW_BYTES
        assert stream._channel.buffered_bytes <= STREAM_WINDOW_BYTES

    pipes(main, slot)


@both_sides
def test_a_method_that_does_not_read_stops_the_caller_s_stream_within_the_window(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        call = start(pipe.stuck(source(world, 1_000, 10 * KIB)))
        await world.elapse(9_000)
        assert 0 < world.env.sent <= STREAM_WINDOW_BYTES
        await call
        await world.elapse(100)
        assert world.log == ["source closed"]

    pipes(main, slot)


@both_sides
def test_a_slow_reader_gets_everything_however_long_it_takes(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        collected = await pipe.collect(source(world, 100, 10 * KIB), 1_000)
        assert len(collected) == 100 * 10 * KIB

    pipes(main, slot)


# -- ends --------------------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("how", ["aclose", "break", "never started"])
def test_a_dropped_reader_closes_the_writer(slot: int, how: str) -> None:
    async def main(world: World, pipe: Stub) -> None:
        stream = await pipe.count(1_000_000)
        if how == "break":
            async for _ in stream:
                break
        elif how == "aclose":
            await anext(stream)
            await stream.aclose()
            assert await read(stream) == []
        await world.elapse(10)
        del stream
        gc.collect()
        await world.elapse(100)
        assert world.log[1:] == ["closed"]
        await world.elapse(EVICTED_MS)
        assert world.hosts[slot].runtime.active == 0

    pipes(main, slot)


@both_sides
def test_a_writer_that_waits_is_closed_too(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        stream = await pipe.endless()
        await world.elapse(100)
        await stream.aclose()
        await world.elapse(100)
        assert world.log == ["waits", "CancelledError"]
        assert await pipe.ping() == "pong"

    pipes(main, slot)


@both_sides
def test_a_method_that_reads_no_further_closes_the_caller_s_stream(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        assert await pipe.first(source(world, 1_000_000)) == b"000"
        await world.elapse(100)
        assert world.log == ["source closed"]

    pipes(main, slot)


@both_sides
def test_an_open_stream_keeps_the_object_in_memory(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        stream = await pipe.count(1_000, 10 * KIB)
        await anext(stream)
        await world.elapse(2 * EVICTED_MS)
        assert world.hosts[slot].runtime.active == 1
        assert len(await read(stream)) == 999
        await world.elapse(EVICTED_MS)
        assert world.hosts[slot].runtime.active == 0

    pipes(main, slot)


@both_sides
def test_a_caller_that_gives_up_ends_both_streams(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        call = start(pipe.collect(source(world, 20), 1_000))
        await world.elapse(5_000)
        call.cancel()
        await world.elapse(1_000)
        assert world.log == ["source closed"]
        assert await pipe.ping() == "pong"
        await world.elapse(2 * EVICTED_MS)
        assert world.hosts[slot].runtime.active == 0

    pipes(main, slot)


# -- errors ------------------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize(
    ("kind", "cls", "text"),
    [
        ("ours", Overloaded, "not now"),
        ("a bug", ObjectFailed, "ZeroDivisionError"),
        ("abort", ObjectFailed, "enough"),
    ],
)
def test_an_error_in_the_middle_arrives_where_it_happened(
    slot: int, n: int, kind: str, cls: type[PenstockError], text: str
) -> None:
    async def main(world: World, pipe: Stub) -> None:
        chunks, error = await read_to_error(await pipe.fail_after(n, kind))
        assert chunks == [b"%d" % i for i in range(n)]
        assert type(error) is cls and text in error.message and error.remote
        assert error.breaks_stub is (kind == "abort")
        assert await pipe.ping() == "pong"

    pipes(main, slot)


@both_sides
def test_what_is_no_stream_of_bytes_is_an_error(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        chunks, error = await read_to_error(await pipe.no_bytes())
        assert chunks == [b"a"] and "bytes" in error.message
        assert "no_stream" in (await error_of(pipe.no_stream())).message
        assert isinstance(await error_of(pipe.collect([b"a"])), Invalid)
        assert isinstance(await error_of(pipe.collect()), PenstockError)
        assert await pipe.ping() == "pong"
        await world.elapse(EVICTED_MS)
        assert world.hosts[slot].runtime.active == 0

    pipes(main, slot)


@both_sides
def test_an_error_of_the_caller_s_stream_reaches_the_method_and_comes_back(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        async def failing() -> AsyncIterator[bytes]:
            yield b"a"
            raise Conflict("mine", code=5)

        async def bug() -> AsyncIterator[bytes]:
            raise ZeroDivisionError("mine")
            yield b""

        error = await error_of(pipe.collect(failing()))
        assert isinstance(error, Conflict) and error.code == 5
        error = await error_of(pipe.collect(bug()))
        assert isinstance(error, ObjectFailed) and "ZeroDivisionError: mine" in error.message

    pipes(main, slot)


@both_sides
def test_an_object_that_breaks_ends_its_streams_on_both_sides(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        given = await pipe.count(1_000, 10 * KIB)
        waiting = start(read_to_error(await pipe.endless()))
        taken = start(error_of(pipe.collect(source(world, 1_000), 1_000)))
        await anext(given)
        await world.elapse(5_000)
        await error_of(pipe.abort())
        errors = [(await read_to_error(given))[1], (await waiting)[1], await taken]
        for error in errors:
            assert isinstance(error, ObjectFailed) and "enough" in error.message
        await world.elapse(100)
        assert "source closed" in world.log and "closed" in world.log
        assert await pipe.ping() == "pong"

    pipes(main, slot)


def test_a_writer_s_executor_that_dies_ends_the_stream_with_an_error() -> None:
    async def main(world: World, pipe: Stub) -> None:
        stream = await pipe.count(1_000, 10 * KIB)
        await anext(stream)
        await world.elapse(100)
        await world.hosts[1].kill()
        chunks, error = await read_to_error(stream)
        assert isinstance(error, Unavailable) and error.breaks_stub and not error.remote
        assert b"".join(chunks[-1:]) != b"%010240d" % 999

    pipes(main, 1)


def test_a_reader_s_executor_that_dies_closes_the_writer() -> None:
    async def main(world: World, pipe: Stub) -> None:
        other = world.hosts[1].runtime.namespace("Pipe").get(world.stub_on(0, Pipe).id)
        stream = await other.count(1_000, 10 * KIB)
        call = start(other.collect(source(world, 1_000, KIB), 1_000))
        await world.elapse(3_000)
        await world.hosts[1].kill()
        await world.elapse(3_000)
        assert [entry for entry in world.log if entry != "source closed"][1:] == ["closed"]
        assert world.hosts[0].runtime.active == 1
        await world.elapse(2 * EVICTED_MS)
        assert world.hosts[0].runtime.active == 0
        call.cancel()
        del stream

    pipes(main, 1)


def test_a_call_with_a_stream_to_an_executor_that_is_not_there_fails() -> None:
    async def main(world: World, pipe: Stub) -> None:
        await world.hosts[1].kill()
        assert isinstance(await error_of(pipe.collect(source(world, 10))), Unavailable)
        assert isinstance(await error_of(pipe.count(10)), Unavailable)
        await world.start(1)
        assert await pipe.collect(source(world, 2)) == b"000001"

    pipes(main, 1)


@pytest.mark.parametrize("what", ["lose_request", "lose_answer"])
def test_a_lost_call_is_given_up(what: str) -> None:
    async def main(world: World, pipe: Stub) -> None:
        setattr(world.network, what, 1.0)
        assert isinstance(await error_of(pipe.count(10)), Unavailable)
        assert isinstance(await error_of(pipe.collect(source(world, 10))), Unavailable)
        await world.elapse(1_000)
        assert world.log.count("source closed") <= 1
        assert not world.hosts[0]._transport._channels and not world.hosts[1]._transport._served

    pipes(main, 1)


@both_sides
def test_a_stream_that_breaks_the_object_breaks_the_stub(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        other = world.stub_on(slot, Pipe, "other")
        bug, *aborts = await world.stub_on(0, Pipe).read_two(other.id.name)
        assert "ZeroDivisionError" in bug
        assert len(aborts) == 2 and all("enough" in text for text in aborts)

    pipes(main, slot)


# -- the gate ----------------------------------------------------------------------------------------------


@both_sides
def test_a_chunk_is_held_until_what_was_written_before_it_is_durable(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        await pipe.ping()
        relay = world.hosts[slot].relay
        relay.hold()
        stream = await pipe.notes(2)
        for expected in (b"0", b"1"):
            chunk = start(anext(stream))
            await world.elapse(1_000)
            assert not chunk.done()
            relay.sync()
            assert await chunk == expected
        end = start(read(stream))
        await world.elapse(1_000)
        assert not end.done()
        relay.sync()
        assert await end == []
        relay.release()

    pipes(main, slot)


@both_sides
def test_what_an_object_writes_to_another_is_held_too(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        other = world.stub_on(slot, Pipe, "other")
        await other.ping()
        await pipe.ping()
        world.relay.hold(key_of(pipe))
        call = start(pipe.forward(other.id.name, 2))
        await world.elapse(1_000)
        assert world.relay.count(key_of(pipe)) >= 1
        world.relay.release()
        assert await call == b"01"

    async def live(world: World) -> None:
        await main(world, world.stub_on(0, Pipe))

    run(live, Pipe, executors=2)


@both_sides
def test_nothing_of_a_step_that_failed_is_ever_seen(slot: int) -> None:
    async def main(world: World, pipe: Stub) -> None:
        await pipe.ping()
        with world.full_disk():
            chunks, error = await read_to_error(await pipe.notes(3))
        assert chunks == [] and error.kind == "storage_full"
        assert await pipe.written() == 0

    pipes(main, slot)


# -- signatures --------------------------------------------------------------------------------------------


class Signatures:
    async def two(self, a: AsyncIterator[bytes], b: AsyncIterator[bytes]) -> None: ...

    async def text(self, a: AsyncIterator[str]) -> None: ...

    async def unannotated(self):  # type: ignore[no-untyped-def]
        yield b""


@pytest.mark.parametrize(("name", "text"), [("two", "2 streams"), ("text", "bytes"), ("unannotated", "annotate")])
def test_a_method_with_streams_that_cannot_be_is_refused_at_registration(name: str, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Method(getattr(Signatures, name))


@pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])
def test_calls_with_streams_are_counted_like_others(slot: int) -> None:
    async def main(world: World) -> None:
        stream = await world.stub_on(slot, Pipe).count(2)
        async for _ in stream:
            pass
        counted = {name: counters.calls for name, _, counters in world.hosts[slot].runtime.class_statistics()}
        assert counted["Pipe"] == 1

    run(main, Pipe, executors=2)


@pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])
def test_a_stream_that_nobody_reads_ends_and_lets_its_object_go(slot: int) -> None:
    async def main(world: World) -> None:
        stream = await world.stub_on(slot, Pipe).count(1_000, 65_536)
        assert len(await stream.__anext__()) == 65_536
        await world.elapse(STREAM_UNREAD_MS_MAX + 100_000)
        assert world.hosts[slot].runtime.active == 0
        read = 0
        with pytest.raises(Unavailable, match="Nobody has read the stream for 15 minutes"):
            async for chunk in stream:
                read += len(chunk)
        assert 0 < read <= STREAM_WINDOW_BYTES

    run(main, Pipe, executors=2)
