"""An object store as the network shows it: it fails, it is slow, and what failed may have happened."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.base.clock import Clock
from penstock.base.errors import Unavailable
from penstock.base.rng import Rng
from penstock.storage.object_store import Chunks, ObjectInfo, ObjectStore


class FaultyStore:
    """Implements `ObjectStore` over another. Everything may be changed at any time; as made, nothing fails."""

    def __init__(self, inner: ObjectStore, clock: Clock, rng: Rng) -> None:
        self._inner = inner
        self._clock = clock
        self._rng = rng
        #: Nothing gets through while this is set.
        self.outage = False
        #: Probability that a call fails and has no effect.
        self.fail = 0.0
        #: Probability that a put happens and is reported as failed.
        self.lose_answer = 0.0
        #: Probability that a call takes a time drawn from `slow_ms`, before its effect.
        self.slow = 0.0
        self.slow_ms = (100, 30_000)
        #: Calls so far, and those that this class made fail.
        self.calls = 0
        self.failures = 0

    async def put(self, bucket: str, key: str, chunks: Chunks) -> int:
        await self._before()
        size = await self._inner.put(bucket, key, chunks)
        # An outage that began meanwhile loses the answer as surely as a dropped connection.
        if self.outage or self._rng.random() < self.lose_answer:
            raise self._failure("The object store's answer was lost.")
        return size

    async def get(self, bucket: str, key: str) -> bytes:
        await self._before()
        return await self._inner.get(bucket, key)

    async def list(self, bucket: str, prefix: str = "") -> Sequence[ObjectInfo]:
        await self._before()
        return await self._inner.list(bucket, prefix)

    async def _before(self) -> None:
        self.calls += 1
        if self._rng.random() < self.slow:
            await self._clock.sleep_ms(self._rng.randint(*self.slow_ms))
        if self.outage or self._rng.random() < self.fail:
            raise self._failure("The object store failed (503).")

    def _failure(self, message: str) -> Unavailable:
        self.failures += 1
        return Unavailable(message, retry_after_s=1)
