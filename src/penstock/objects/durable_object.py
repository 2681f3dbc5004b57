"""The base class of durable objects, and the context through which one reaches the world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from penstock.base.clock import Clock
from penstock.base.rng import Rng
from penstock.objects.identity import ObjectId
from penstock.objects.storage import ObjectStorage
from penstock.storage.object_store import Chunks, ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from penstock.objects.stub import Namespace

Env = TypeVar("Env")
T = TypeVar("T")

WaitDurable = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class AlarmInfo:
    """Why `alarm()` is called: `retries` times it failed before."""

    retries: int

    @property
    def is_retry(self) -> bool:
        return self.retries > 0


class GatedBuckets:
    """The buckets behind the output gate: an upload starts only when everything that the object wrote before is
    durable, since what is in a bucket can be seen."""

    def __init__(self, buckets: ObjectStore, wait_durable: WaitDurable) -> None:
        self._buckets = buckets
        self._wait_durable = wait_durable

    async def put(self, bucket: str, key: str, chunks: Chunks) -> int:
        await self._wait_durable()
        return await self._buckets.put(bucket, key, chunks)

    async def get(self, bucket: str, key: str) -> bytes:
        return await self._buckets.get(bucket, key)

    async def list(self, bucket: str, prefix: str = "") -> Sequence[ObjectInfo]:
        return await self._buckets.list(bucket, prefix)


class Context:
    """`self.ctx` of an object: who it is and all that it may use.

    Whatever leaves through the context (`namespace(...)` stubs, `buckets`) waits at the object's output gate.
    """

    def __init__(
        self,
        id: ObjectId,
        storage: ObjectStorage,
        *,
        clock: Clock,
        rng: Rng,
        buckets: ObjectStore,
        namespace: Callable[[str], Namespace],
        block_concurrency_while: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self.id = id
        self.storage = storage
        self.clock = clock
        self.rng = rng
        self.buckets = buckets
        self.namespace = namespace
        """Stubs of another class's objects: `ctx.namespace("Inventory").get_by_name("shop")`."""
        self._block_concurrency_while = block_concurrency_while

    def block_concurrency_while(self, work: Callable[[], Awaitable[None]]) -> None:
        """Let nothing enter the object until `work` is done (at most 30 s). For asynchronous work in the
        constructor; if it raises, the object starts again with the next call."""
        self._block_concurrency_while(work)


class DurableObject(Generic[Env]):
    """A named thing with one thread of execution, a database, an alarm and an output gate.

    Subclass it and register the class. Every public method, `def` or `async def`, can be called through a stub;
    arguments and results must be serialisable by msgspec and are typed by the method's annotations. Calls
    run one at a time between awaits. `env` is what the class was registered with.

    The constructor runs once per activation: make tables there and read into memory what calls need. It must
    not assume that it runs only once in the object's life.
    """

    #: Whether anybody may reach the class's `fetch` over HTTP, without the account's token.
    public: ClassVar[bool] = False

    def __init__(self, ctx: Context, env: Env) -> None:
        self.ctx = ctx
        self.env = env

    async def alarm(self, info: AlarmInfo) -> None:
        """Called when the alarm fires, at least once per alarm and never twice at the same time. If it raises it is
        called again after 2 s, doubling, up to 6 times."""
        raise NotImplementedError(f"{type(self).__name__} set an alarm but has no alarm() method.")
