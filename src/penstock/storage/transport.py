"""Calls between executors, as a port: a request of bytes to a numbered sibling, an answer of bytes.

On one machine this is a Unix socket per executor. Requests from one executor to another share one connection
and are handed over in the order in which they were made, which is what makes calls on one stub arrive in
order. What the bytes mean is `objects/remote.py`'s business. A call may have streams (`channel.py`), whose frames
go the same way.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, cast

from penstock.base.errors import Overloaded, TooLarge, Unavailable
from penstock.base.limits import CALL_TIMEOUT_MS, FRAME_BYTES_MAX, PEER_QUEUE_BYTES_MAX
from penstock.storage.channel import Channel, Frame

#: Answers one request. It must not raise: errors are answers too.
Handler = Callable[[bytes], Awaitable[bytes]]
#: Answers one request of a call that has streams, through the channel. It must not raise.
ChannelHandler = Callable[[bytes, Channel], Awaitable[None]]


async def no_streams(_payload: bytes, channel: Channel) -> None:
    """The handler of who serves none."""
    channel.fail(Unavailable("This executor serves no streams."))


class Transport(Protocol):
    async def request(self, slot: int, payload: bytes) -> bytes:
        """Send `payload` to executor `slot` and give its answer.

        Raises `Unavailable` when the sibling is not there, dies before it answers or takes longer than
        `CALL_TIMEOUT_MS` (the request may have been carried out), `Overloaded` when too much is queued for it,
        `TooLarge` when `payload` is.
        """
        ...

    def open(self, slot: int, payload: bytes) -> Channel:
        """Send `payload` as a call that has streams. In order with `request`s; raises `Overloaded` and `TooLarge`
        as they do. A sibling that is not there or dies fails the channel; there is no timeout."""
        ...


#: A frame: payload size, then the call's number, whose lowest bits are the kind of the frame (`Frame`).
_HEADER = struct.Struct("<IQ")
_KINDS = 8
_KIND_MASK = _KINDS - 1
#: As plain numbers, since each call needs them: members of an enum take several times as long to look up.
_REQUEST, _ANSWER, _OPEN = int(Frame.REQUEST), int(Frame.ANSWER), int(Frame.OPEN)


class _Frames(asyncio.Protocol):
    """Cuts a byte stream into frames. One instance per connection, on either end of it."""

    def __init__(self, on_frame: Callable[[_Frames, int, bytes], None]) -> None:
        self._on_frame = on_frame
        self._buffer = bytearray()
        self.transport: asyncio.Transport
        self.on_lost: Callable[[], None] = lambda: None
        #: Calls with streams that are served on this connection, by number.
        self.channels: dict[int, Channel] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_lost()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            size, number = _HEADER.unpack_from(self._buffer, start)
            if size > FRAME_BYTES_MAX:
                self.transport.abort()
                return
            end = start + _HEADER.size + size
            if len(self._buffer) < end:
                break
            self._on_frame(self, number, bytes(memoryview(self._buffer)[start + _HEADER.size : end]))
            start = end
        if start:
            del self._buffer[:start]

    def send(self, number: int, payload: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(_HEADER.pack(len(payload), number))
            self.transport.write(payload)


class _Peer:
    """The connection to one sibling, made on the first request and again after it was lost."""

    def __init__(self, slot: int, path: str, tasks: asyncio.TaskGroup) -> None:
        self._slot = slot
        self._path = path
        self._tasks = tasks
        self._frames: _Frames | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        #: Requests made while connecting, in order.
        self._unsent: list[tuple[int, bytes]] = []
        self._channels: dict[int, Channel] = {}
        self._number = 0

    def _call(self, kind: int, payload: bytes) -> int:
        """Send a call; gives its number."""
        if len(payload) > FRAME_BYTES_MAX:
            raise TooLarge(f"A call between executors has {len(payload)} bytes; the limit is {FRAME_BYTES_MAX}.")
        frames = self._frames
        if frames is not None and frames.transport.get_write_buffer_size() > PEER_QUEUE_BYTES_MAX:
            raise Overloaded("A sibling executor does not keep up with calls. Try again.", retry_after_s=1)
        self._number += _KINDS
        self._send(self._number, kind, payload)
        return self._number

    def _send(self, number: int, kind: int, payload: bytes) -> None:
        if self._frames is not None:
            self._frames.send(number | kind, payload)
            return
        if not self._unsent:
            self._tasks.create_task(self._connect())
        self._unsent.append((number | kind, payload))

    def open(self, payload: bytes) -> Channel:
        number = self._call(_OPEN, payload)
        channel = Channel(partial(self._send, number), partial(self._channels.pop, number, None))
        self._channels[number] = channel
        return channel

    async def request(self, payload: bytes) -> bytes:
        number = self._call(_REQUEST, payload)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(CALL_TIMEOUT_MS / 1000):
                return await answer
        except TimeoutError:
            raise no_answer(self._slot) from None
        finally:
            self._waiting.pop(number, None)

    async def _connect(self) -> None:
        frames = _Frames(self._on_frame)
        frames.on_lost = self._on_lost
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: frames, self._path)
        except OSError:
            self._fail("The executor that owns this object is not running; it is being restarted.")
            return
        if frames.transport.is_closing():
            self._on_lost()
            return
        self._frames = frames
        unsent, self._unsent = self._unsent, []
        for number, payload in unsent:
            call = number & ~_KIND_MASK
            if call in self._waiting or call in self._channels:  # else its caller gave up
                frames.send(number, payload)

    def _on_frame(self, _frames: _Frames, number: int, payload: bytes) -> None:
        kind = number & _KIND_MASK
        answer = self._waiting.pop(number - kind, None)
        if answer is not None:
            if not answer.done():
                answer.set_result(payload)
        elif (channel := self._channels.get(number - kind)) is not None:
            channel.on_frame(kind, payload)

    def _on_lost(self) -> None:
        self._frames = None
        self._fail("The executor died before it answered; it is being restarted.")

    def _fail(self, message: str) -> None:
        self._unsent.clear()
        lost, self._waiting = self._waiting, {}
        channels, self._channels = self._channels, {}
        # A channel that nobody reads any more takes itself out as it fails.
        for channel in list(channels.values()):
            channel.fail(lost_sibling(message))
        for answer in lost.values():
            if not answer.done():
                answer.set_exception(lost_sibling(message))

    def close(self) -> None:
        if self._frames is not None:
            self._frames.transport.abort()


def _served_channel(frames: _Frames, number: int) -> Channel:
    def send(kind: Frame, payload: bytes) -> None:
        frames.send(number | kind, payload)

    channel = frames.channels[number] = Channel(send, partial(frames.channels.pop, number, None))
    return channel


def _fail_served(frames: _Frames) -> None:
    channels, frames.channels = frames.channels, {}
    for channel in channels.values():
        channel.fail(lost_sibling("The executor that called died."))


async def _handle(handler: ChannelHandler, payload: bytes, channel: Channel) -> None:
    await handler(payload, channel)


def lost_sibling(message: str) -> Unavailable:
    error = Unavailable(message, retry_after_s=1)
    error.breaks_stub = True
    return error


def no_answer(slot: int) -> Unavailable:
    """In all the time that a call may take."""
    return Unavailable(f"Executor {slot} does not answer; look for executor_blocked in its log.", retry_after_s=1)


class UnixTransport:
    """Unix sockets `executor-<slot>.sock` in one private folder."""

    def __init__(self, folder: str, slot: int, tasks: asyncio.TaskGroup) -> None:
        self._folder = folder
        self._slot = slot
        self._tasks = tasks
        self._peers: dict[int, _Peer] = {}
        self._server: asyncio.Server | None = None

    async def serve(self, handler: Handler, channel_handler: ChannelHandler = no_streams) -> None:
        """Start to answer siblings' requests, each in a task of its own."""

        async def answer(frames: _Frames, number: int, payload: bytes) -> None:
            frames.send(number | _ANSWER, await handler(payload))

        def on_frame(frames: _Frames, number: int, payload: bytes) -> None:
            kind = number & _KIND_MASK
            if kind == _REQUEST:
                self._tasks.create_task(answer(frames, number, payload))
            elif kind == _OPEN:
                channel = _served_channel(frames, number - kind)
                self._tasks.create_task(_handle(channel_handler, payload, channel))
            elif (known := frames.channels.get(number - kind)) is not None:
                known.on_frame(kind, payload)

        def connected() -> _Frames:
            frames = _Frames(on_frame)
            frames.on_lost = partial(_fail_served, frames)
            return frames

        self._server = await asyncio.get_running_loop().create_unix_server(connected, self._path(self._slot))

    async def request(self, slot: int, payload: bytes) -> bytes:
        return await self._peer(slot).request(payload)

    def open(self, slot: int, payload: bytes) -> Channel:
        return self._peer(slot).open(payload)

    def _peer(self, slot: int) -> _Peer:
        peer = self._peers.get(slot)
        if peer is None:
            peer = self._peers[slot] = _Peer(slot, self._path(slot), self._tasks)
        return peer

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for peer in self._peers.values():
            peer.close()

    def _path(self, slot: int) -> str:
        return f"{self._folder}/executor-{slot}.sock"
