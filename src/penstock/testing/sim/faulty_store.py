"""An object store as the network shows it: it fails, it is slow, and what failed may have happened."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice

from penstock.base.clock import Clock
from penstock.base.errors import BucketNotFound, Forbidden, PenstockError, Unavailable
from penstock.base.limits import S3_REQUEST_SECONDS_MAX, S3_RETRY_SECONDS_MAX
from penstock.base.rng import Rng
from penstock.storage.object_store import Chunks, ObjectInfo, ObjectStore
from penstock.storage.s3_failure import S3Request, failure

#: How long the client of a real bucket waits for an answer in one call.
_PATIENCE_MS = (S3_REQUEST_SECONDS_MAX + S3_RETRY_SECONDS_MAX) * 1000


@dataclass(slots=True)
class StoreFaults:
    """What is wrong with the store now. One for all who use it; may be changed at any time."""

    #: Nothing gets through while this is set.
    outage: bool = False
    #: It answers every call with 403.
    forbidden: bool = False
    #: It has no bucket at all.
    bucketless: bool = False
    #: It answers every call with this HTTP status.
    status: int | None = None
    #: It answers nothing: a call fails when its caller's patience is over.
    hangs: bool = False
    #: Probability that the connection breaks off in the middle of a put's body.
    reset: float = 0.0
    #: Probability that a call fails and has no effect.
    fail: float = 0.0
    #: Probability that a put or a delete happens and is reported as failed.
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
        await self._before(bucket, key)
        if self._rng.random() < self._faults.reset:
            await self._inner.put(bucket, key, lambda: self._broken_off(chunks))
        size = await self._inner.put(bucket, key, chunks)
        self._after()
        return size

    async def get(self, bucket: str, key: str) -> bytes:
        await self._before(bucket, key)
        return await self._inner.get(bucket, key)

    async def read(self, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
        await self._before(bucket, key)
        async with aclosing(self._inner.read(bucket, key)) as pieces:
            async for piece in pieces:
                yield piece

    async def head(self, bucket: str, key: str) -> ObjectInfo | None:
        await self._before(bucket, key)
        return await self._inner.head(bucket, key)

    async def delete(self, bucket: str, key: str) -> None:
        await self._before(bucket, key)
        await self._inner.delete(bucket, key)
        self._after()

    async def list(
        self, bucket: str, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Sequence[ObjectInfo]:
        await self._before(bucket, prefix)
        return await self._inner.list(bucket, prefix, after=after, limit=limit)

    async def _before(self, bucket: str, key: str) -> None:
        if self._rng.random() < self._faults.slow:
            await self._clock.sleep_ms(self._rng.randint(*self._faults.slow_ms))
        if self._faults.hangs:
            await self._clock.sleep_ms(_PATIENCE_MS)
            raise self._failed(Unavailable("The object store did not answer.", retry_after_s=1))
        if self._faults.status is not None:
            request = S3Request("the simulated server", "put", bucket, key)
            raise self._failed(failure(request, f"status code: {self._faults.status}"))
        if self._faults.outage or self._rng.random() < self._faults.fail:
            raise self._failed(Unavailable("The object store failed (503).", retry_after_s=1))
        if self._faults.forbidden:
            raise self._failed(Forbidden(f"The object store refuses {key} in the bucket {bucket} (403)."))
        if self._faults.bucketless:
            raise self._failed(BucketNotFound(f"The object store has no bucket {bucket}."))

    def _after(self) -> None:
        # An outage that began meanwhile loses the answer as surely as a dropped connection.
        if self._faults.outage or self._rng.random() < self._faults.lose_answer:
            raise self._failed(Unavailable("The object store's answer was lost.", retry_after_s=1))

    def _broken_off(self, chunks: Chunks) -> Iterator[bytes]:
        yield from islice(chunks(), 1)
        raise self._failed(Unavailable("The connection to the object store was reset.", retry_after_s=1))

    def _failed(self, error: PenstockError) -> PenstockError:
        self._faults.failures += 1
        return error
