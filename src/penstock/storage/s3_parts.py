"""An object's bytes in the sizes that are sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from penstock.storage.object_store import Chunks
from penstock.storage.offload import Offload


class Parts:
    """The bytes that `chunks` makes, cut and joined to parts of `part_bytes`, the last one smaller.

    They are made beside the loop, and one at a time, so that an upload that waits for the network holds no thread.
    """

    def __init__(self, chunks: Chunks, offload: Offload, part_bytes: int) -> None:
        self.size_bytes = 0
        self._chunks = chunks
        self._offload = offload
        self._part_bytes = part_bytes
        self._source: Iterator[bytes] | None = None
        self._left = bytearray()
        self._closed = False
        # `close` may come while a cancelled `next` is still at work in its thread.
        self._working = threading.Lock()

    async def next(self) -> bytes:
        """The next part; empty at the end. Raises what `chunks` raises."""
        part = await self._offload.run("bulk", self._next)
        self.size_bytes += len(part)
        return part

    def _next(self) -> bytes:
        with self._working:
            if self._closed:
                return b""
            if self._source is None:
                self._source = iter(self._chunks())
            while len(self._left) < self._part_bytes:
                chunk = next(self._source, None)
                if chunk is None:
                    break
                self._left += chunk
            part = bytes(memoryview(self._left)[: self._part_bytes])
            del self._left[: self._part_bytes]
            return part

    async def close(self) -> None:
        """Let go of what the chunks are made from. There are no parts after it."""
        await self._offload.run("bulk", self._close)

    def _close(self) -> None:
        with self._working:
            self._closed = True
            close: Any = getattr(self._source, "close", None)
            if close is not None:
                close()
            self._left.clear()
