"""The runtime of one executor: it activates objects, routes calls, fires alarms and evicts what is idle."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import structlog

from penstock.base.errors import Fenced, Internal, Invalid, Overloaded, PenstockError, Unavailable
from penstock.base.limits import (
    CALL_TIMEOUT_MS,
    OBJECT_IDLE_MS_MAX,
    OBJECTS_ACTIVE_MAX,
    SWEEP_INTERVAL_MS,
    WAL_BYTES_MAX_DEFAULT,
)
from penstock.base.request_id import bind_request_id
from penstock.objects import remote
from penstock.objects.activation import Activation
from penstock.objects.alarm_index import AlarmIndex
from penstock.objects.durable_object import Context, DurableObject
from penstock.objects.failures import FailureLog
from penstock.objects.gate import InputGate
from penstock.objects.identity import ObjectId
from penstock.objects.object_alarm import AbortedAlarm
from penstock.objects.object_stream import ObjectStream
from penstock.objects.placement import owner
from penstock.objects.remote import Method
from penstock.objects.streams import Chunks, OnFailure, encode_failure, pump
from penstock.objects.stub import BeforeCall, Namespace
from penstock.storage.channel import Channel, linked
from penstock.storage.ports import Ports
from penstock.storage.transport import no_answer

log = structlog.get_logger("penstock.objects")


@dataclass(slots=True)
class ClassStatistics:
    """Counters since start, of one class. `failures` are the errors that nobody meant: of a start, a method, an
    alarm."""

    calls: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _Class:
    cls: type[DurableObject[Any]]
    env: Any
    methods: dict[str, Method]
    namespace: str
    internal: bool
    statistics: ClassStatistics


@dataclass(slots=True)
class RuntimeStatistics:
    """Counters since start."""

    activations: int = 0
    evictions: int = 0
    broken: int = 0
    alarms_fired: int = 0
    alarm_failures: int = 0
    alarms_given_up: int = 0


class Runtime:
    """`slot` of `executors` says which objects live here. `on_fatal` is called when nothing can be made durable
    any more: the process must end. No more than `active_max` objects are in memory at once, besides those that are
    being closed."""

    def __init__(
        self,
        ports: Ports,
        folder: str,
        *,
        slot: int,
        executors: int,
        tasks: asyncio.TaskGroup,
        on_fatal: Callable[[PenstockError], None],
        wal_bytes_max: int = WAL_BYTES_MAX_DEFAULT,
        active_max: int = OBJECTS_ACTIVE_MAX,
    ) -> None:
        self.ports = ports
        self.wal_bytes_max = wal_bytes_max
        self.slot = slot
        self.executors = executors
        self.tasks = tasks
        self.statistics = RuntimeStatistics()
        self._folder = folder
        self._on_fatal = on_fatal
        #: By the class's name, and by the namespace of its objects.
        self._classes: dict[str, _Class] = {}
        self._namespaces: dict[str, _Class] = {}
        #: Namespaces of Penstock's own classes; a dict, for its order.
        self._internal: dict[str, None] = {}
        self.failures = FailureLog()
        self._active: dict[str, Activation] = {}
        self.active_max = active_max
        #: Alarms whose handler was aborted, by the object's address, until their entry in the index fires again.
        self.aborted_alarms: dict[str, AbortedAlarm] = {}
        #: How many of the active ones are being closed.
        self._ending = 0
        self._stopping = False
        self.alarms = AlarmIndex(
            ports,
            f"{folder}/alarms/{slot}.db",
            tasks,
            fire=self._fire_alarm,
            system=lambda: self._internal,
            on_fatal=on_fatal,
            wal_bytes_max=wal_bytes_max,
        )

    def register(
        self,
        cls: type[DurableObject[Any]],
        env: Any = None,
        namespace: str | None = None,
        *,
        internal: bool = False,
    ) -> None:
        """Make a class known under its own name. `namespace` is where its objects are, by default a place of that
        name; a class that was renamed keeps the one it had, and its objects their keys. `internal`: it is
        Penstock's own, and only objects of such classes reach its objects."""
        namespace = namespace or cls.__name__
        assert cls.__name__ not in self._classes and namespace not in self._namespaces, cls
        known = _Class(cls, env, remote.methods_of(cls), namespace, internal, ClassStatistics())
        self._classes[cls.__name__] = self._namespaces[namespace] = known
        if internal:
            self._internal[namespace] = None

    def is_internal(self, namespace: str) -> bool:
        """Whether its class is Penstock's own."""
        return namespace in self._internal

    def namespace(
        self,
        name: str,
        before_call: BeforeCall | None = None,
        *,
        caller: str | None = None,
        lasting: bool = True,
    ) -> Namespace:
        """The objects of a class, by the class's name. `before_call`, if given, is awaited before each call: an
        object's output gate. `caller`: the namespace of the object that asks, None for the server. `lasting`:
        whether its stubs go on when the object that they call broke. Raises `Invalid` for a class that is not
        registered, or is not for this caller."""
        sees_all = caller is None or self._class(caller).internal
        known = self._classes.get(name)
        if known is None or (known.internal and not sees_all):
            visible = [key for key, other in self._classes.items() if sees_all or not other.internal]
            raise Invalid(f"There is no class {name!r}; known are {', '.join(visible)}.")
        return Namespace(self, known.namespace, known.methods, before_call, lasting=lasting)

    def _class(self, namespace: str) -> _Class:
        try:
            return self._namespaces[namespace]
        except KeyError:
            raise Invalid(
                f"There is no namespace {namespace!r}; known are {', '.join(self._namespaces)}."
            ) from None

    def has_alarm(self, namespace: str) -> bool:
        """Whether the class of a namespace has a handler of its own."""
        return self._class(namespace).cls.alarm is not DurableObject.alarm

    def path(self, namespace: str, key: str) -> str:
        """Of an object's database."""
        return f"{self._folder}/objects/{namespace}/{key[:2]}/{key}.db"

    def owner(self, id: ObjectId) -> int:
        return owner(id.key, self.executors)

    @property
    def active(self) -> int:
        """Objects in memory."""
        return len(self._active)

    def active_object(self, namespace: str, key: str) -> Activation | None:
        """An object of this executor, if it is in memory."""
        return self._active.get(f"{namespace}/{key}")

    @property
    def namespaces(self) -> dict[str, str]:
        """The namespace of each class, by the class's name."""
        return {name: known.namespace for name, known in self._classes.items()}

    def class_statistics(self) -> Iterator[tuple[str, int, ClassStatistics]]:
        """Of each class its name, how many of its objects are in memory, and its counters."""
        active = Counter(activation.id.namespace for activation in self._active.values())
        for name, known in self._classes.items():
            yield name, active[known.namespace], known.statistics

    def note_failure(self, id: ObjectId, error: BaseException) -> None:
        """An error that nobody meant came out of an object."""
        self._class(id.namespace).statistics.failures += 1
        self.failures.note((id.namespace, id.key), error, self.ports.clock.now_ms())

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.alarms.open()
        self.tasks.create_task(self.alarms.run())
        self.tasks.create_task(self._sweep())

    async def stop(self) -> None:
        """Close every object. Calls under way fail as they would in a crash; the caller has drained them before."""
        self._stopping = True
        for activation in list(self._active.values()):
            if activation.begin_end():
                self._ending += 1
                await self._end(activation)
            else:
                await activation.ended.wait()
        await self.alarms.close()

    async def _sweep(self) -> None:
        while True:
            await self.ports.clock.sleep_ms(SWEEP_INTERVAL_MS)
            before_s = asyncio.get_running_loop().time() - OBJECT_IDLE_MS_MAX / 1000
            for activation in list(self._active.values()):
                if activation.last_used_s < before_s and activation.is_idle:
                    await self._begin_eviction(activation)

    def _begin_eviction(self, activation: Activation) -> Coroutine[Any, Any, None]:
        """Of an idle object. What this gives is to be awaited."""
        self.statistics.evictions += 1
        self._ending += 1
        activation.begin_end()
        return self._end(activation)

    def _make_room(self) -> None:
        """Before one more object starts. Raises `Overloaded` if that would be one too many and none is idle."""
        if len(self._active) - self._ending < self.active_max:
            return
        by_use = sorted(self._active.values(), key=lambda activation: activation.last_used_s)
        # Several at once: to look through all of them takes a millisecond or more.
        idle = list(islice((a for a in by_use if a.is_idle), max(1, self.active_max // 16)))
        if not idle:
            raise Overloaded(
                f"{self.active_max} objects are at work on this executor, which is the limit.", retry_after_s=1
            )
        for activation in idle:
            self.tasks.create_task(self._begin_eviction(activation))

    def discard(self, activation: Activation, error: PenstockError) -> None:
        """The activation broke: end it, so that the next call starts the object from what is durable."""
        if isinstance(error, Fenced):
            self._on_fatal(error)
        elif activation.begin_end():
            self._ending += 1
            self.statistics.broken += 1
            activation.tell_discarded()
            log.warning("object_discarded", object=activation.id.label, error=error.message)
            self.tasks.create_task(self._end(activation))

    async def _end(self, activation: Activation) -> None:
        """After `begin_end`."""
        await activation.end()
        # In the same step: calls that waited for the end must find the next activation, not this one.
        id, gate = activation.id, activation.gate
        del self._active[id.address]
        self._ending -= 1
        if gate.waiting and (activation.refusal is None or activation.awaits_next) and not self._stopping:
            # It starts before the gate opens, and behind the same gate, so that no newcomer can overtake.
            self._activate(id, gate)
        gate.unshut()

    # -- calls --------------------------------------------------------------------------------------------

    async def call_here(
        self, id: ObjectId, method: str, args: tuple[Any, ...], finish: Callable[[Any], Any]
    ) -> Any:
        """Call a method of an object that lives here. `finish` as in `Activation.call`."""
        self._class(id.namespace).statistics.calls += 1
        return await self._activation(id).call(method, args, finish)

    async def call_next(
        self,
        ended: Activation,
        method: str,
        args: tuple[Any, ...],
        finish: Callable[[Any], Any],
        *,
        streams: bool,
    ) -> Any:
        """A call that has passed the gate of an activation that ended meanwhile."""
        return await self._activation(ended.id).call(method, args, finish, streams=streams, inside=ended.gate)

    async def call_there(self, slot: int, id: ObjectId, method: str, args: bytes) -> bytes:
        """Call a method of an object of executor `slot`; gives the encoded result."""
        request = remote.encode_request(id, method, args)
        return remote.result_of(await self.ports.transport.request(slot, request))

    async def answer(self, payload: bytes) -> bytes:
        """Serve a sibling's `call_there`. Errors are answers."""
        try:
            id, name, method, args = self._requested(payload)
            answer: bytes = await self.call_here(id, name, args, method.encode_result)
            return answer
        except PenstockError as error:
            return remote.encode_error(error)

    def _requested(self, payload: bytes) -> tuple[ObjectId, str, Method, tuple[Any, ...]]:
        """The call that a request asks for."""
        try:
            request = remote.decode_request(payload)
        except msgspec.MsgspecError as error:
            raise Internal(f"A call could not be decoded: {error}.") from error
        method = self._class(request.namespace).methods.get(request.method)
        if method is None:
            raise Invalid(f"{request.namespace} has no method {request.method!r} that a stub can call.")
        if request.request_id:
            bind_request_id(request.request_id)
        id = request.id
        if self.owner(id) != self.slot:
            raise Unavailable(f"{id.label} does not live on executor {self.slot}.", retry_after_s=1)
        return id, request.method, method, method.decode_args(request.args)

    # -- calls with streams -------------------------------------------------------------------------------

    async def call_streams_here(
        self,
        id: ObjectId,
        method: Method,
        name: str,
        args: tuple[Any, ...],
        source: AsyncIterator[bytes] | None,
        before_chunk: BeforeCall | None,
        on_failure: OnFailure | None,
    ) -> Any:
        """Call a method that takes or gives a stream, of an object that lives here. `args` and `source` are those
        of `Method.take_stream`. `before_chunk` is awaited before each chunk that the caller writes; `on_failure` is
        told how the stream that the caller reads failed."""
        writer, reader = linked()
        taken = Chunks(reader)
        if source is not None:
            self.tasks.create_task(pump(source, writer, before_chunk))
            args = method.put_stream(args, taken)
        try:
            result = await self._call_streams(id, method, name, args, method.copy_result)
            if not method.gives_stream:
                taken.close()
                return result
        except BaseException:
            taken.close()
            raise
        writer, reader = linked()
        self.tasks.create_task(_give(result, writer, taken))
        return Chunks(reader, on_failure)

    async def call_streams_there(
        self,
        slot: int,
        id: ObjectId,
        method: Method,
        name: str,
        args: bytes,
        source: AsyncIterator[bytes] | None,
        before_chunk: BeforeCall | None,
        on_failure: OnFailure | None,
    ) -> Any:
        """As `call_streams_here`, of an object of executor `slot`."""
        request = remote.encode_request(id, name, args)
        channel = self.ports.transport.open(slot, request)
        writing = None
        if source is None:
            channel.end()
        else:
            writing = self.tasks.create_task(pump(source, channel, before_chunk))
        try:
            answer = await _wait_for_answer(slot, channel, writing)
            result = method.decode_result(remote.result_of(answer))
        except BaseException:
            channel.abandon(encode_failure(Unavailable("The caller has given up.")))
            raise
        if method.gives_stream:
            return Chunks(channel, on_failure)
        channel.stop_reading()
        return result

    async def _call_streams(
        self, id: ObjectId, method: Method, name: str, args: tuple[Any, ...], finish: Callable[[Any], Any]
    ) -> Any:
        """The call itself. `finish` is for a result that is no stream."""
        self._class(id.namespace).statistics.calls += 1
        if method.gives_stream:
            return await self._activation(id).call(name, args, aiter, streams=True)
        return await self._activation(id).call(name, args, finish)

    async def answer_streams(self, payload: bytes, channel: Channel) -> None:
        """Serve a sibling's `call_streams`. Errors are answers."""
        taken = Chunks(channel)
        try:
            id, name, method, args = self._requested(payload)
            args = method.put_stream(args, taken)
            result = await self._call_streams(id, method, name, args, method.encode_result)
            if not method.gives_stream:
                channel.reply(result)
        except PenstockError as error:
            channel.reply(remote.encode_error(error))
            result = None
        if not isinstance(result, ObjectStream):
            channel.end()
            taken.close()
            return
        channel.reply(remote.encode_result(None))
        await _give(result, channel, taken)

    def _activation(self, id: ObjectId) -> Activation:
        activation = self._active.get(id.address)
        if activation is not None:
            return activation
        if self._stopping:
            raise Unavailable("This executor is stopping.", retry_after_s=1)
        self._make_room()
        return self._activate(id, InputGate())

    def _activate(self, id: ObjectId, gate: InputGate) -> Activation:
        known = self._class(id.namespace)
        path = self.path(id.namespace, id.key)
        activation = self._active[id.address] = Activation(self, id, path, gate)
        self.statistics.activations += 1

        def build(ctx: Context) -> DurableObject[Any]:
            object = known.cls(ctx, known.env)
            if getattr(object, "ctx", None) is not ctx:
                raise TypeError("its __init__ must call super().__init__(ctx, env)")
            return object

        self.tasks.create_task(activation.start(build))
        return activation

    async def _fire_alarm(self, id: ObjectId, lost: int) -> bool:
        self.statistics.alarms_fired += 1
        return await self._activation(id).fire_alarm(lost)


async def _give(stream: ObjectStream, channel: Channel, taken: Chunks) -> None:
    """Write a method's stream. What the method has taken it may read until then."""
    try:
        await pump(stream, channel)
    finally:
        taken.close()


async def _wait_for_answer(slot: int, channel: Channel, writing: asyncio.Task[None] | None) -> bytes:
    """The answer to a call with streams. The time for it starts when the caller has written all of its own."""
    loop = asyncio.get_running_loop()
    limit_s = CALL_TIMEOUT_MS / 1000
    try:
        async with asyncio.timeout(limit_s if writing is None else None) as deadline:

            def start_time(_: object) -> None:
                deadline.reschedule(loop.time() + limit_s)

            if writing is not None:
                writing.add_done_callback(start_time)
            try:
                return await channel.answer()
            finally:
                if writing is not None:
                    writing.remove_done_callback(start_time)
    except TimeoutError:
        raise no_answer(slot) from None
