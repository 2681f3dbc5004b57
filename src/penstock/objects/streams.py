"""Streams of bytes across objects.

A method may take an async iterator of bytes, and may return one (`AsyncIterator[bytes]` in its signature says so).
Wherever both sides live, the writer runs in a task of its own, ahead of the reader by a window at most
(`storage/channel.py`). Each chunk that leaves an object passes its output gate: what the object wrote before it is
durable when it is seen. Empty chunks are left out and long ones are cut; nothing else is promised about where one
chunk ends and the next begins.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import structlog

from penstock.base.errors import ObjectFailed, PenstockError, Unavailable
from penstock.base.limits import STREAM_CHUNK_BYTES_MAX, STREAM_UNREAD_MS_MAX
from penstock.objects.remote import Failure
from penstock.objects.work import is_from_outside
from penstock.storage.channel import Channel

log = structlog.get_logger("penstock.objects")

OnFailure = Callable[[PenstockError], None]


class Chunks:
    """A stream that another object, or the caller, writes: `async for chunk in chunks`.

    Chunks arrive in order, each of 1 to 65,536 bytes. An error of the writer is raised where it happened, after the
    chunks before it. `aclose()`, or letting go of the stream, ends the writer.
    """

    def __init__(self, channel: Channel, on_failure: OnFailure | None = None) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._on_failure = on_failure
        self._closed = False

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        if self._closed:
            raise StopAsyncIteration
        try:
            chunk = await self._channel.read()
            if chunk is not None:
                return chunk
            if self._channel.failure:
                raise Failure.decode(self._channel.failure).as_error()
        except PenstockError as error:
            self.close()
            if self._on_failure is not None:
                self._on_failure(error)
            raise
        self.close()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Read no more. The writer, if it is not at its end, is closed soon after."""
        self.close()

    def close(self) -> None:
        """As `aclose`, which has nothing to wait for."""
        if not self._closed:
            self._closed = True
            self._channel.stop_reading()

    def __del__(self) -> None:
        if not self._closed:
            # The garbage collector may run in any thread, and when the loop is closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._channel.stop_reading)


async def pump(
    source: AsyncIterator[bytes], channel: Channel, before_chunk: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Write all of `source` into `channel`, as a task of its own. Whatever happens, the source is closed and the
    channel is ended; no error is raised."""
    task = asyncio.current_task()
    assert task is not None
    channel.on_unread = task.cancel
    failure: PenstockError | None = None
    try:
        if not channel.unread:
            failure = await _write_all(source, channel, before_chunk)
    except asyncio.CancelledError:
        failure = Unavailable("The writer of the stream has ended before the stream.", retry_after_s=1)
        if not channel.unread or task.uncancel():
            raise
    except PenstockError as error:
        failure = error
    finally:
        channel.on_unread = lambda: None
        try:
            await close(source)
        finally:
            channel.end(b"" if failure is None else encode_failure(failure))


async def _write_all(
    source: AsyncIterator[bytes], channel: Channel, before_chunk: Callable[[], Awaitable[None]] | None
) -> PenstockError | None:
    """Gives the error in which the source ended. Raises what `before_chunk` raises."""
    failure: PenstockError | None = None
    try:
        async for chunk in source:
            for piece in _pieces(own_bytes(chunk)):
                if before_chunk is not None:
                    await before_chunk()
                await _write(channel, piece)
    except BaseException as error:
        if is_from_outside(error):
            raise
        failure = error if isinstance(error, PenstockError) else _writer_failed(error)
    if before_chunk is not None:
        await before_chunk()  # the end tells about the writer as a chunk does, and so does an error
    return failure


async def _write(channel: Channel, piece: bytes) -> None:
    try:
        async with asyncio.timeout(STREAM_UNREAD_MS_MAX / 1000):
            await channel.write(piece)
    except TimeoutError:
        minutes = STREAM_UNREAD_MS_MAX // 60_000
        raise Unavailable(f"Nobody has read the stream for {minutes} minutes, so it was ended.") from None


def _writer_failed(error: BaseException) -> ObjectFailed:
    name = type(error).__name__
    return ObjectFailed(f"The writer of the stream failed: {name}: {error}", type_name=name)


def encode_failure(error: PenstockError) -> bytes:
    """An error in which a stream ends."""
    return Failure.of(error).encode()


async def close(source: Any) -> None:
    """Close an iterator, if it can be closed."""
    aclose = getattr(source, "aclose", None)
    if aclose is None:
        return
    try:
        await aclose()
    except BaseException as error:
        if is_from_outside(error):
            raise
        log.warning("stream_not_closed_cleanly", error=repr(error))


def own_bytes(chunk: Any) -> bytes:
    """The bytes of a chunk, whose owner may change it. Raises `TypeError` for what is none."""
    if type(chunk) is bytes:
        return chunk
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise TypeError(f"a stream's chunks are bytes, not {type(chunk).__name__}")
    return bytes(chunk)


def _pieces(chunk: bytes) -> Iterator[bytes]:
    for start in range(0, len(chunk), STREAM_CHUNK_BYTES_MAX):
        yield chunk[start : start + STREAM_CHUNK_BYTES_MAX]
