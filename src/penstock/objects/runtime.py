"""The runtime of one executor: it activates objects, routes calls, fires alarms and evicts what is idle."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from penstock.base.errors import Fenced, Internal, Invalid, PenstockError, TooLarge, Unavailable
from penstock.base.limits import FRAME_BYTES_MAX, OBJECT_IDLE_MS_MAX, SWEEP_INTERVAL_MS
from penstock.objects import remote
from penstock.objects.activation import Activation
from penstock.objects.alarm_index import AlarmIndex
from penstock.objects.durable_object import Context, DurableObject
from penstock.objects.failures import FailureLog
from penstock.objects.gate import InputGate
from penstock.objects.identity import ObjectId
from penstock.objects.placement import owner
from penstock.objects.remote import Method
from penstock.objects.stub import BeforeCall, Namespace
from penstock.storage.ports import Ports

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
    any more: the process must end."""

    def __init__(
        self,
        ports: Ports,
        folder: str,
        *,
        slot: int,
        executors: int,
        tasks: asyncio.TaskGroup,
        on_fatal: Callable[[PenstockError], None],
    ) -> None:
        self.ports = ports
        self.slot = slot
        self.executors = executors
        self.tasks = tasks
        self.statistics = RuntimeStatistics()
        self._folder = folder
        self._on_fatal = on_fatal
        #: By the class's name, and by the namespace of its objects.
        self._classes: dict[str, _Class] = {}
        self._namespaces: dict[str, _Class] = {}
        self.failures = FailureLog()
        self._active: dict[str, Activation] = {}
        self._stopping = False
        self.alarms = AlarmIndex(
            ports, f"{folder}/alarms/{slot}.db", tasks, fire=self._fire_alarm, on_fatal=on_fatal
        )

    def register(self, cls: type[DurableObject[Any]], env: Any = None, namespace: str | None = None) -> None:
        """Make a class known under its own name. `namespace` is where its objects are, by default a place of that
        name; a class that was renamed keeps the one it had, and its objects their keys."""
        namespace = namespace or cls.__name__
        assert cls.__name__ not in self._classes and namespace not in self._namespaces, cls
        known = _Class(cls, env, remote.methods_of(cls), namespace, ClassStatistics())
        self._classes[cls.__name__] = self._namespaces[namespace] = known

    def namespace(self, name: str, before_call: BeforeCall | None = None) -> Namespace:
        """The objects of a class, by the class's name. `before_call`, if given, is awaited before each call: an
        object's output gate."""
        known = self._classes.get(name)
        if known is None:
            raise Invalid(f"There is no class {name!r}; known are {', '.join(self._classes)}.")
        return Namespace(self, known.namespace, known.methods, before_call)

    def _class(self, namespace: str) -> _Class:
        try:
            return self._namespaces[namespace]
        except KeyError:
            raise Invalid(
                f"There is no namespace {namespace!r}; known are {', '.join(self._namespaces)}."
            ) from None

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
        activation = self._active.get(key)
        return activation if activation is not None and activation.id.namespace == namespace else None

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
                await self._end(activation)
            else:
                await activation.ended.wait()
        await self.alarms.close()

    async def _sweep(self) -> None:
        while True:
            await self.ports.clock.sleep_ms(SWEEP_INTERVAL_MS)
            now_ms = self.ports.clock.elapsed_ms()
            for activation in list(self._active.values()):
                if activation.is_idle and now_ms - activation.last_used_ms > OBJECT_IDLE_MS_MAX:
                    self.statistics.evictions += 1
                    activation.begin_end()
                    await self._end(activation)

    def discard(self, activation: Activation, error: PenstockError) -> None:
        """The activation broke: end it, so that the next call starts the object from what is durable."""
        if isinstance(error, Fenced):
            self._on_fatal(error)
        elif activation.begin_end():
            self.statistics.broken += 1
            log.warning("object_discarded", object=str(activation.id), error=error.message)
            self.tasks.create_task(self._end(activation))

    async def _end(self, activation: Activation) -> None:
        """After `begin_end`."""
        await activation.end()
        # In the same step: calls that waited for the end must find the next activation, not this one.
        id, gate = activation.id, activation.gate
        del self._active[id.key]
        if gate.is_awaited and activation.refusal is None and not self._stopping:
            # It starts before the gate opens, and behind the same gate, so that no newcomer can overtake.
            self._activate(id, gate)
        gate.unshut()

    # -- calls --------------------------------------------------------------------------------------------

    async def call_here(self, id: ObjectId, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method of an object that lives here."""
        self._class(id.namespace).statistics.calls += 1
        return await self._activation(id).call(method, args)

    async def call_next(self, ended: Activation, method: str, args: tuple[Any, ...]) -> Any:
        """A call that has passed the gate of an activation that ended meanwhile."""
        return await self._activation(ended.id).call(method, args, inside=ended.gate)

    async def call_there(self, slot: int, id: ObjectId, method: str, args: bytes) -> bytes:
        """Call a method of an object of executor `slot`; gives the encoded result."""
        request = remote.encode_request(id.namespace, id.name, method, args)
        return remote.result_of(await self.ports.transport.request(slot, request))

    async def answer(self, payload: bytes) -> bytes:
        """Serve a sibling's `call_there`. Errors are answers."""
        try:
            request = remote.decode_request(payload)
            known = self._class(request.namespace)
            method = known.methods.get(request.method)
            if method is None:
                raise Invalid(f"{request.namespace} has no method {request.method!r} that a stub can call.")
            id = ObjectId(request.namespace, request.name)
            if self.owner(id) != self.slot:
                raise Unavailable(f"{id} does not live on executor {self.slot}.", retry_after_s=1)
            result = await self.call_here(id, request.method, method.decode_args(request.args))
            answer = remote.encode_result(result)
            if len(answer) > FRAME_BYTES_MAX:
                raise TooLarge(f"{id}.{request.method} gave {len(answer)} bytes; the limit is {FRAME_BYTES_MAX}.")
            return answer
        except PenstockError as error:
            return remote.encode_error(error)
        except msgspec.MsgspecError as error:
            return remote.encode_error(Internal(f"A call could not be decoded: {error}."))

    def _activation(self, id: ObjectId) -> Activation:
        activation = self._active.get(id.key)
        if activation is not None:
            return activation
        if self._stopping:
            raise Unavailable("This executor is stopping.", retry_after_s=1)
        return self._activate(id, InputGate())

    def _activate(self, id: ObjectId, gate: InputGate) -> Activation:
        known = self._class(id.namespace)
        path = self.path(id.namespace, id.key)
        activation = self._active[id.key] = Activation(self, id, path, gate)
        self.statistics.activations += 1

        def build(ctx: Context) -> DurableObject[Any]:
            return known.cls(ctx, known.env)

        self.tasks.create_task(activation.start(build))
        return activation

    async def _fire_alarm(self, id: ObjectId) -> bool:
        self.statistics.alarms_fired += 1
        return await self._activation(id).fire_alarm()
