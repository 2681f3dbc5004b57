"""An object store as the network shows it: it fails, it is slow, and what failed may have happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.base.clock import Clock
from penstock.base.errors import Unavailable
from penstock.base.rng import Rng
from penstock.storage.object_store import Chunks, ObjectInfo, ObjectStore


@dataclass(slots=True)
class StoreFaults:
    """What is wrong with the store now. One for all who use it; may be changed at any time."""

    #: Nothing gets through while this is set.
    outage: bool = False
    #: Probability that a call fails and has no effect.
    fail: float = 0.0
    #: Probability that a put happens and is reported as failed.
    lose_answer: float = 0.0
    #: Probability that a call takes a time drawn from `slow_ms`, before its effect.
    slow: float = 0.0
    slow_ms: tuple[int, int] = (100, 30_000)
    #: Calls that were made fail so far.
    failures: int = 0


class FaultyStore:
    """Implements `ObjectStore` over another."""

    def __init__(self, inner: ObjectStore, clock: Clock, rng: Rng, faults: StoreFaults) -> None:
        self._inner = inner
        self._clock = clock
        self._rng = rng
        self._faults = faults

    async def put(self, bucket: str, key: str, chunks: Chunks) -> int:
        await self._before()
        size = await self._inner.put(bucket, key, chunks)
        # An outage that began meanwhile loses the answer as surely as a dropped connection.
        if self._faults.outage or self._rng.random() < self._faults.lose_answer:
            raise self._failure("The object store's answer was lost.")
        return size

    async def get(self, bucket: str, key: str) -> bytes:
        await self._before()
        return await self._inner.get(bucket, key)

    async def list(self, bucket: str, prefix: str = "") -> Sequence[ObjectInfo]:
        await self._before()
        return await self._inner.list(bucket, prefix)

    async def _before(self) -> None:
        if self._rng.random() < self._faults.slow:
            await self._clock.sleep_ms(self._rng.randint(*self._faults.slow_ms))
        if self._faults.outage or self._rng.random() < self._faults.fail:
            raise self._failure("The object store failed (503).")

    def _failure(self, message: str) -> Unavailable:
        self._faults.failures += 1
        return Unavailable(message, retry_after_s=1)
