"""A simulated machine: executors that start, serve, die and start again on one disk, one clock and one network.

Each executor is the real `Node`, put together on simulated ports; what is missing of the real server is sockets and
processes. A process's death is modelled by what it means: from that moment nothing of it reaches the disk, the
network or a client, while what the kernel had stays; a power cut takes what was not synced as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from msgspec import json

from penstock.apps import NO_APPLICATION, Application
from penstock.base.errors import Fenced, PenstockError
from penstock.base.limits import Limits
from penstock.base.rng import seeded_rng
from penstock.http.auth import Account
from penstock.objects import DurableObject
from penstock.server.node import Node
from penstock.storage.object_store import FolderStore
from penstock.storage.ports import Ports
from penstock.storage.relay import LocalRelay
from penstock.storage.secrets import SecretKey, Secrets
from penstock.testing.sim.client import Answer, ask
from penstock.testing.sim.clock import SimClock
from penstock.testing.sim.crash import Crashed
from penstock.testing.sim.disk import SimDisk
from penstock.testing.sim.faulty_store import FaultyStore, StoreFaults
from penstock.testing.sim.loop import VirtualLoop
from penstock.testing.sim.mount import Mount
from penstock.testing.sim.network import SimNetwork, SimTransport
from penstock.testing.sim.offload import SimOffload
from penstock.testing.sim.s3 import SimS3, SimS3Stores
from penstock.testing.sim.trace import Trace
from penstock.testing.sim.transforms import SimTransforms, TransformFaults
from penstock.tokens.token_registry import token_hash

T = TypeVar("T")

FOLDER = "/data"
ACCOUNT_ID = "5" * 32
TOKEN = "simulated-token"
SECRET_KEY = SecretKey("5" * 8, b"simulated secret key of 32 bytes")

#: A dead executor is there again after this time.
_RESTART_MS = 50
#: After a start that failed.
_RESTART_FAILED_MS = 250
#: A task of a dead executor that has not ended after this time of the clock will never end.
_END_MS_MAX = 120_000


class ConnectionLost(Exception):
    """No executor listens, or it died before it answered: whether the request was carried out is unknown."""


@dataclass(slots=True)
class MachineSettings:
    executors: int = 2
    limits: Limits = field(default_factory=lambda: Limits(disk_reserve_bytes=64 * 1024))
    disk_bytes: int = 1 << 40
    #: Further classes of objects, beside the server's own.
    classes: Sequence[type[DurableObject[Any]]] = ()
    #: A user's application, and the namespaces of its classes.
    application: Application = NO_APPLICATION
    namespaces: Mapping[str, str] = field(default_factory=dict)


class SimMachine:
    """Use as `async with`: all executors are started on entry, and dead on exit.

    The supervisor's part is played here: an executor that died is started again, until `on_fatal` was called in
    one, which ends all of them (`fenced` says why) until somebody calls `start_all`.
    """

    def __init__(self, loop: VirtualLoop, seed: int | str, settings: MachineSettings | None = None) -> None:
        self.loop = loop
        self.seed = seed
        self.settings = settings or MachineSettings()
        self.clock = SimClock(loop)
        self.trace = Trace(lambda: round(loop.time() * 1000))
        self.disk = SimDisk(seeded_rng(f"{seed}/disk"), self.settings.disk_bytes)
        self.network = SimNetwork(seeded_rng(f"{seed}/network"), loop)
        self.store = StoreFaults()
        #: Buckets elsewhere, and what is wrong with each.
        self.s3 = SimS3(f"{FOLDER}/s3")
        self.transforms = TransformFaults()
        #: Shortest and longest duration of work beside the loop, syncs among it.
        self.work_ms = (0.1, 2.0)
        #: What an executor said when it could make nothing durable any more.
        self.fenced: PenstockError | None = None
        #: Whether `crash_at` or `fail_sync_at` still waits for its operation.
        self.fault_pending = False
        #: Errors that no executor may end with. Looked at on exit.
        self.bugs: list[BaseException] = []
        self.locks: dict[str, Mount] = {}
        self._executors: list[SimExecutor | None] = [None] * self.settings.executors
        self._lives = 0
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> SimMachine:
        self.start_all()
        await self.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True
        self.kill_all("exit")
        if self._ending:
            _, stuck = await asyncio.wait(self._ending, timeout=_END_MS_MAX / 1000)
            if stuck and error is None:
                raise AssertionError(f"tasks of dead executors never ended: {stuck}")
        if self.bugs and error is None:
            raise self.bugs[0]

    # -- life and death -------------------------------------------------------------------------------------

    def start_all(self) -> None:
        """Start every executor that is not there."""
        self.fenced = None
        for slot in range(self.settings.executors):
            self._start(slot)

    def _start(self, slot: int) -> None:
        if self._closed or self.fenced is not None or self._executors[slot] is not None:
            return
        self._lives += 1
        executor = self._executors[slot] = SimExecutor(self, slot, self._lives)
        self.trace.add(executor.name, "start")
        task = self.loop.create_task(executor.live())
        executor.task = task
        self._ending.add(task)
        task.add_done_callback(partial(self._on_end, executor))

    def _on_end(self, executor: SimExecutor, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        error = None if task.cancelled() else task.exception()
        if executor.alive and error is not None:
            # It ended by itself. A start may fail, on a full disk say; an executor that serves may not.
            if executor.ready or not _is_failed_start(error):
                self.bugs.append(error)
            self._dead(executor, f"ended: {type(error).__name__}", _RESTART_FAILED_MS)
        executor.mount.bury()

    def kill(self, slot: int, why: str = "kill -9") -> None:
        """End an executor at once, in the middle of whatever it does. It is started again by itself."""
        executor = self._executors[slot]
        if executor is not None:
            self._dead(executor, why, _RESTART_MS)

    def kill_all(self, why: str = "kill -9") -> None:
        for slot in range(self.settings.executors):
            self.kill(slot, why)

    def power_cut(self) -> None:
        """End all executors, and lose what was not synced."""
        self.kill_all("power cut")
        self.disk.power_cut()

    def _dead(self, executor: SimExecutor, why: str, restart_ms: int) -> None:
        self.trace.add(executor.name, why)
        self._executors[executor.slot] = None
        executor.die()
        self.loop.call_later(restart_ms / 1000, self._start, executor.slot)

    def on_fatal(self, executor: SimExecutor, error: PenstockError) -> None:
        """As the real supervisor does it: one executor's exit for a bad disk ends the whole server."""
        if executor.alive:
            if not isinstance(error, Fenced):
                self.bugs.append(error)  # nothing else is a reason to end
            self.fenced = error
            self.kill_all("fenced")

    def crash_at(self, operation: int, how: Callable[[], None] = lambda: None) -> None:
        """Kill the executor that asks for the `operation`-th operation on the disk from now (1, 2, …), in place of
        that operation, after calling `how` (a power cut, say)."""
        at = self.disk.operations + operation
        self.fault_pending = True

        def before(number: int, name: str, path: str) -> None:
            if number >= at:
                self.no_fault()
                self.trace.add("disk", "crash", name, path)
                how()
                user = self._user()
                if user is not None:
                    self._dead(user, "crash in operation", _RESTART_MS)
                raise Crashed

        self.disk.before_operation = before

    def fail_sync_at(self, sync: int) -> None:
        """Let the `sync`-th sync from now fail, and it alone."""
        left = sync
        self.fault_pending = True

        def before(_number: int, name: str, path: str) -> None:
            nonlocal left
            self.disk.sync_fails = False
            if name.startswith("sync"):
                left -= 1
                if not left:
                    self.fault_pending = False
                    self.disk.sync_fails = True
                    self.trace.add("disk", "fails", name, path)

        self.disk.before_operation = before

    def no_fault(self) -> None:
        """Take back a fault that waits for its operation."""
        self.fault_pending = False
        self.disk.sync_fails = False
        self.disk.before_operation = lambda _number, _name, _path: None
        self.disk.before_access = lambda _name, _path: None

    def _user(self) -> SimExecutor | None:
        """The executor that the disk operation under way comes from, if it still lives."""
        for executor in self._executors:
            if executor is not None and executor.mount is self.disk.user:
                return executor
        return None

    # -- from outside ---------------------------------------------------------------------------------------

    def executor(self, slot: int) -> SimExecutor | None:
        """The executor in a slot, if it is there and serves."""
        executor = self._executors[slot]
        return executor if executor is not None and executor.ready else None

    async def ready(self) -> None:
        """Wait until every executor serves."""
        while not all(self.executor(slot) for slot in range(self.settings.executors)):
            await self.clock.sleep_ms(5)

    async def run(self, slot: int, work: Callable[[Node], Awaitable[T]]) -> T:
        """Run `work` inside an executor and give its result. Raises `ConnectionLost`."""
        executor = self.executor(slot)
        if executor is None:
            raise ConnectionLost(f"executor {slot} is not there")
        return await executor.run(work)

    async def request(
        self, slot: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """An HTTP request to an executor. Raises `ConnectionLost`."""
        return await self.run(slot, lambda node: ask(node.app, method, path, body, headers or {}))

    async def control(self, slot: int, method: str, path: str, body: Any = None) -> Answer:
        """A request to the account's part of the control API, with its token."""
        content = b"" if body is None else json.encode(body)
        route = f"/client/v4/accounts/{ACCOUNT_ID}{path}"
        return await self.request(slot, method, route, content, {"authorization": f"Bearer {TOKEN}"})

    def bucket(self, name: str, endpoint: str | None = None) -> dict[str, bytes]:
        """The objects of a bucket by key, as they are on the disk: of this machine, or at an endpoint."""
        root = f"{FOLDER}/buckets" if endpoint is None else self.s3.root(endpoint)
        folder = f"{root}/{name}/"
        return {path.removeprefix(folder): content for path, content in self.disk.files(folder).items()}


class SimExecutor:
    """One life of an executor."""

    def __init__(self, machine: SimMachine, slot: int, life: int) -> None:
        self.slot = slot
        self.name = f"executor-{slot}"
        self.alive = True
        self.ready = False
        self.task: asyncio.Task[None] | None = None
        self.mount = Mount(machine.disk, f"{id(machine):x}-{life}", machine.locks)
        self._machine = machine
        self._rng = seeded_rng(f"{machine.seed}/life/{life}")
        self.offload = SimOffload(machine.loop, self._rng, delay_ms=machine.work_ms)
        self._transport: SimTransport | None = None
        self._callers: dict[asyncio.Future[Any], None] = {}
        self._tasks: _Tasks
        self.node: Node

    async def live(self) -> None:
        """Start and serve, until killed."""
        async with _Tasks(lambda: self.alive) as self._tasks:
            node, transport = self._build(self._tasks)
            await node.start()
            await transport.serve(node.answer, node.runtime.answer_streams)
            self.node = node
            self.ready = True

    def _build(self, tasks: asyncio.TaskGroup) -> tuple[Node, SimTransport]:
        machine = self._machine
        relay = LocalRelay(self.offload, machine.clock, partial(machine.on_fatal, self))
        tasks.create_task(relay.run())
        self._transport = transport = machine.network.transport(self.slot, tasks)
        folders = FolderStore(self.mount, self.offload, f"{FOLDER}/buckets", f"{FOLDER}/unfinished")
        secrets = Secrets([SECRET_KEY], self._rng)
        ports = Ports(
            clock=machine.clock,
            rng=self._rng,
            disk=self.mount,
            offload=self.offload,
            relay=relay,
            transport=transport,
            buckets=FaultyStore(folders, machine.clock, self._rng, machine.store),
            s3=SimS3Stores(machine.s3, self.mount, self.offload, machine.clock, self._rng, secrets),
            secrets=secrets,
        )
        node = Node(
            ports,
            FOLDER,
            Account(ACCOUNT_ID, token_hash(TOKEN)),
            machine.settings.limits,
            relay.statistics,
            slot=self.slot,
            executors=machine.settings.executors,
            tasks=tasks,
            on_fatal=partial(machine.on_fatal, self),
            application=machine.settings.application,
            namespaces=machine.settings.namespaces,
            transforms=SimTransforms(machine.settings.application, machine.clock, self._rng, machine.transforms),
        )
        for cls in machine.settings.classes:
            node.runtime.register(cls)
        return node, transport

    def die(self) -> None:
        """From now on nothing of it reaches anybody."""
        self.alive = self.ready = False
        self.mount.die()
        self.offload.kill()
        if self._transport is not None:
            self._transport.close()
        for caller in self._callers:
            if not caller.done():
                caller.set_exception(ConnectionLost(f"{self.name} died"))
        if self.task is not None:
            self.task.cancel()

    async def run(self, work: Callable[[Node], Awaitable[T]]) -> T:
        outcome: asyncio.Future[T] = self._machine.loop.create_future()
        self._callers[outcome] = None
        self._tasks.create_task(self._settle(outcome, work))
        try:
            return await outcome
        finally:
            del self._callers[outcome]

    async def _settle(self, outcome: asyncio.Future[T], work: Callable[[Node], Awaitable[T]]) -> None:
        try:
            result = await work(self.node)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            if not outcome.done():
                outcome.set_exception(error)
        else:
            # A dead executor has told its callers so already, and whatever it still does stays unheard.
            if not outcome.done():
                outcome.set_result(result)


class _Tasks(asyncio.TaskGroup):
    """The tasks of a process: none can start when it is dead."""

    def __init__(self, is_alive: Callable[[], bool]) -> None:
        super().__init__()
        self._is_alive = is_alive

    def create_task(self, coro: Coroutine[Any, Any, T], **kwargs: Any) -> asyncio.Task[T]:  # type: ignore[override]
        if not self._is_alive():
            coro.close()
            raise Crashed
        return super().create_task(coro, **kwargs)


def _is_failed_start(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_failed_start(inner) for inner in error.exceptions)
    return isinstance(error, PenstockError)
