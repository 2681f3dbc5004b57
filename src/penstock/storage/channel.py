"""The streams of one call between two executors: order, credit and ends. No I/O.

Each side of the call holds a `Channel`, and what one sends arrives at the other in order. Both may write a stream
of chunks to the other: the caller one that it passes as an argument, the called one that it returns. A writer may
send as many bytes as it has credit for. It starts with a window of `STREAM_WINDOW_BYTES` and gets back what the
reader has taken, so that no side ever holds more than a window, and a reader that stops stops the writer.

    frame    from     means
    OPEN     caller   a call that has streams
    ANSWER   called   its result or error, or that the result is a stream
    CHUNK    writer   some bytes
    END      writer   no more; a payload is the error in which the stream ends
    CREDIT   reader   so many bytes more may be sent
    UNREAD   reader   nobody reads any more: the writer is to stop
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable

from penstock.base.errors import PenstockError
from penstock.base.limits import STREAM_CHUNK_BYTES_MAX, STREAM_WINDOW_BYTES


class Frame(enum.IntEnum):
    """What a frame between executors is."""

    REQUEST = 0
    ANSWER = 1
    OPEN = 2
    CHUNK = 3
    END = 4
    CREDIT = 5
    UNREAD = 6


#: Credit is given back when so much has been read, not for each chunk. A writer that still waits then has at least
#: half a window, which is more than any chunk.
_CREDIT_BYTES = STREAM_WINDOW_BYTES // 2
assert STREAM_CHUNK_BYTES_MAX <= STREAM_WINDOW_BYTES - _CREDIT_BYTES

Send = Callable[[Frame, bytes], None]


def _nothing() -> None:
    pass


class Channel:
    """One side of a call with streams. `send` takes frames for the other side; `forget` is called once, when
    nothing more is to come or to go."""

    def __init__(self, send: Send, forget: Callable[[], object] = _nothing) -> None:
        #: The error in which the stream that is read ended, as the writer put it; empty if none.
        self.failure = b""
        #: Whether nobody reads what is written here.
        self.unread = False
        #: Called when `unread` becomes true.
        self.on_unread: Callable[[], object] = _nothing
        self._send = send
        self._forget = forget
        self._lost: PenstockError | None = None
        self._answer: bytes | None = None
        self._credit = STREAM_WINDOW_BYTES
        self._chunks: deque[bytes] = deque()
        self._taken = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._answered = self._written = self._read = self._ended = False

    # -- the call -------------------------------------------------------------------------------------------

    async def answer(self) -> bytes:
        """The answer, at the caller. Raises why the connection was lost."""
        while self._answer is None:
            if self._lost is not None:
                raise self._lost
            await self._changes()
        return self._answer

    def reply(self, payload: bytes) -> None:
        """Answer the call."""
        self._answered = True
        self._send(Frame.ANSWER, payload)
        self._settle()

    # -- writing --------------------------------------------------------------------------------------------

    async def write(self, chunk: bytes) -> None:
        """Send a chunk of at most `STREAM_CHUNK_BYTES_MAX` bytes, once there is credit for it. If nobody reads that
        is never: see `on_unread`."""
        while self._credit < len(chunk):
            await self._changes()
        self._credit -= len(chunk)
        self._send(Frame.CHUNK, chunk)

    def end(self, failure: bytes = b"") -> None:
        """There is no more, and why if that is an error. Does nothing the second time."""
        if not self._written:
            self._written = True
            if not self.unread:
                self._send(Frame.END, failure)
            self._settle()

    def abandon(self, failure: bytes) -> None:
        """The caller has given up: end what it writes with `failure`, stop whoever writes it, read nothing."""
        self.end(failure)
        self.stop_reading()
        self._set_unread()
        self._finish()  # an answer may never come

    # -- reading --------------------------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """The next chunk, None at the end (look at `failure` then). Raises why the connection was lost."""
        while not self._chunks:
            if self._ended:
                return None
            if self._lost is not None:
                raise self._lost
            await self._changes()
        chunk = self._chunks.popleft()
        self._taken += len(chunk)
        if self._taken >= _CREDIT_BYTES and not self._ended:
            taken, self._taken = self._taken, 0
            self._send(Frame.CREDIT, taken.to_bytes(4, "little"))
        return chunk

    def stop_reading(self) -> None:
        """Nobody reads any more. Does nothing the second time."""
        if not self._read:
            self._read = True
            self._chunks.clear()
            if not self._ended:
                self._send(Frame.UNREAD, b"")
            self._settle()

    @property
    def buffered_bytes(self) -> int:
        """Bytes that have arrived and were not read."""
        return sum(map(len, self._chunks))

    # -- what arrives ---------------------------------------------------------------------------------------

    def on_frame(self, frame: int, payload: bytes) -> None:
        match frame:
            case Frame.CHUNK:
                if not self._read:
                    self._chunks.append(payload)
            case Frame.CREDIT:
                self._credit += int.from_bytes(payload, "little")
            case Frame.END:
                self._ended = True
                self.failure = payload
            case Frame.UNREAD:
                self._set_unread()
            case Frame.ANSWER:
                self._answered = True
                self._answer = payload
        self._settle()
        self._wake()

    def fail(self, error: PenstockError) -> None:
        """The connection is lost. A stream that has not arrived whole ends here and now."""
        if self._lost is None:
            self._lost = error
            if not self._ended:
                self._chunks.clear()
            self._set_unread()
            self._wake()
            self._finish()

    def _set_unread(self) -> None:
        if not self.unread:
            self.unread = True
            self.on_unread()

    async def _changes(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _settle(self) -> None:
        if self._answered and self._written and (self._read or self._ended):
            self._finish()

    def _finish(self) -> None:
        self._send = _to_nobody  # two linked channels would hold each other for ever
        forget, self._forget = self._forget, _nothing
        forget()


def _to_nobody(_frame: Frame, _payload: bytes) -> None:
    pass


def linked() -> tuple[Channel, Channel]:
    """A writer and its reader in one process."""
    writer = Channel(lambda frame, payload: reader.on_frame(frame, payload))
    reader = Channel(writer.on_frame)
    writer._answered = reader._answered = writer._ended = reader._written = True
    return writer, reader
