"""Who watches the records that a shard stores, live.

Watching never touches storing or delivering: nothing is done where nobody watches, and a watcher who does not read
as fast as records come misses some, and is told how many.

A stream of lines, each a JSON object: `{"record":…}` with a record as it came, or `{"dropped":3}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from penstock.base.errors import Overloaded
from penstock.base.limits import STREAM_CHUNK_BYTES_MAX, TAIL_BUFFER_BYTES, TAIL_LISTENERS_MAX
from penstock.base.rng import Rng


class Listeners:
    """Those of one shard. False while there are none."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._listeners: set[Listener] = set()

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def open(self, sample: float) -> Listener:
        """Another one, which sees the share `sample` of the records, 0 to 1, drawn one by one. Raises
        `Overloaded`."""
        if len(self._listeners) >= TAIL_LISTENERS_MAX:
            raise Overloaded(
                f"{TAIL_LISTENERS_MAX} clients watch this pipeline already; end one, or try again later.",
                retry_after_s=5,
            )
        listener = Listener(sample, self._rng, self._listeners)
        self._listeners.add(listener)
        return listener

    def offer(self, ndjson: bytes) -> None:
        """Records that were stored, one a line."""
        for listener in self._listeners:
            listener.offer(ndjson)

    def end(self) -> None:
        """There will be no more records."""
        for listener in list(self._listeners):
            listener.end()


class Listener(AsyncIterator[bytes]):
    """Gives chunks of whole lines, until it is closed or nothing more can come."""

    def __init__(self, sample: float, rng: Rng, siblings: set[Listener]) -> None:
        self._sample = sample
        self._rng = rng
        self._siblings = siblings
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._dropped = 0
        self._ended = False
        self._news = asyncio.Event()

    def offer(self, ndjson: bytes) -> None:
        for record in ndjson.split(b"\n"):
            if record and (self._sample >= 1 or self._rng.random() < self._sample):
                # Once one is dropped, those after it are too until the buffer is read: so the note is in its place.
                if self._dropped or self._waiting_bytes + len(record) > TAIL_BUFFER_BYTES:
                    self._dropped += 1
                else:
                    self._waiting.append(b'{"record":%b}\n' % record)
                    self._waiting_bytes += len(record)
        if self._waiting or self._dropped:
            self._news.set()

    def end(self) -> None:
        """Give what waits, then stop."""
        self._ended = True
        self._siblings.discard(self)
        self._news.set()

    async def __anext__(self) -> bytes:
        await self._news.wait()
        lines, size = self._waiting, 0
        for count, line in enumerate(lines, 1):
            size += len(line)
            if size >= STREAM_CHUNK_BYTES_MAX and count < len(lines):
                self._waiting = lines[count:]
                self._waiting_bytes = sum(map(len, self._waiting))
                return b"".join(lines[:count])
        self._waiting, self._waiting_bytes = [], 0
        if self._dropped:
            lines.append(b'{"dropped":%d}\n' % self._dropped)
            self._dropped = 0
        if not self._ended:
            self._news.clear()
        elif not lines:
            raise StopAsyncIteration
        return b"".join(lines)

    async def aclose(self) -> None:
        self.end()
