"""The base class of durable objects, and the context through which one reaches the world."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Protocol, TypeVar

from penstock.base.clock import Clock
from penstock.base.errors import Invalid
from penstock.base.rng import Rng
from penstock.objects.buckets import GatedBuckets
from penstock.objects.identity import ObjectId
from penstock.objects.storage import ObjectStorage

if TYPE_CHECKING:
    from penstock.objects.stub import Namespace

Env = TypeVar("Env")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AlarmInfo:
    """Why `alarm()` is called: `retries` times it failed before."""

    retries: int

    @property
    def is_retry(self) -> bool:
        return self.retries > 0


class ObjectAborted(BaseException):
    """Raised by `ctx.abort`. A `BaseException`, so that no `except Exception` on its way stops it."""


class Host(Protocol):
    """What an object's context passes on to the activation."""

    def block_concurrency_while(self, work: Callable[[], Awaitable[T]]) -> Awaitable[T]: ...

    def wait_until(self, work: Awaitable[Any]) -> None: ...

    def abort(self, reason: str, retry_alarm: bool) -> NoReturn: ...


class Context:
    """`self.ctx` of an object: who it is and all that it may use.

    `id.name` is None if the object was never reached by its name.
    Whatever leaves through the context (`namespace(...)` stubs, `buckets`) waits at the object's output gate. What
    leaves by other ways, an HTTP request by a library say, does not: `await storage.sync()` before it.
    """

    def __init__(
        self,
        id: ObjectId,
        storage: ObjectStorage,
        *,
        clock: Clock,
        rng: Rng,
        buckets: GatedBuckets,
        namespace: Callable[[str], Namespace],
        host: Host,
    ) -> None:
        self.id = id
        self.storage = storage
        self.clock = clock
        self.rng = rng
        self.buckets = buckets
        self.namespace = namespace
        """Stubs of another class's objects: `ctx.namespace("Inventory").get_by_name("shop")`."""
        self._host = host

    @property
    def name(self) -> str:
        """The object's name, for classes whose objects all have one. Raises `Invalid` if this one has none."""
        if self.id.name is None:
            raise Invalid(f"Objects of {self.id.namespace} are reached by their names; this one has none.")
        return self.id.name

    def block_concurrency_while(self, work: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        """Let nothing new enter the object until `work` is done, at most 30 s. In the constructor, for asynchronous
        start-up work, there is nothing more to do; a method awaits what this returns, and gets what `work` gave.

        Methods, `alarm()` and `wait_until` work that have begun already go on while `work` awaits. Calls that come
        meanwhile wait, at most 10,000 of them; more get `Overloaded`.

        If `work` raises or takes too long the object breaks: who waits to enter gets the error, and the next call
        starts the object again. A call to another object that calls this one back waits for itself until then.
        """
        given: object = work  # whatever the annotations say
        if not callable(given):
            if inspect.iscoroutine(given):
                given.close()
            raise Invalid(
                "block_concurrency_while takes an async function, which it calls itself: "
                "ctx.block_concurrency_while(self.load), not (self.load())."
            )
        return self._host.block_concurrency_while(work)

    def wait_until(self, work: Awaitable[Any]) -> None:
        """Go on with `work` when the call that started it has been answered. The object stays in memory until then,
        at most 15 minutes; errors are logged. What must happen even if the process dies belongs into an alarm.

        Raises `Overloaded` when 1,000 such works are under way.
        """
        if not inspect.isawaitable(work):
            raise Invalid(
                "wait_until takes what an async function gives when it is called: "
                f"ctx.wait_until(self.tell()), not (self.tell). This is of type {type(work).__name__}."
            )
        self._host.wait_until(work)

    def abort(self, reason: str, *, retry_alarm: bool = True) -> NoReturn:
        """End this object at once. What was written since the last `await` is lost, everything under way fails with
        `reason`, and the next call starts the object anew. Raises `ObjectAborted`, which nobody should catch.

        If `alarm()` is running it has failed by this, and is tried again; with `retry_alarm=False` it is not.
        """
        self._host.abort(reason, retry_alarm)


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
        """Called when the alarm fires, at least once per alarm and never twice at the same time. If it raises,
        takes longer than 15 minutes or its process crashes, it is called again after 2 s, doubling, up to 6 times.
        What passes by itself (`Unavailable`, `Overloaded`, `StorageFull`) is not counted; the wait then grows to
        about a minute."""
        raise NotImplementedError(f"{type(self).__name__} set an alarm but has no alarm() method.")

    def _on_discard(self) -> None:
        """The object broke: what it wrote last may not have lasted. For classes that are part of Penstock and keep
        numbers outside of themselves; must not raise."""
