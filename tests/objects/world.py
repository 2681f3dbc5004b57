"""A small world for tests of objects: one or two executors on virtual time, a simulated disk, and a relay whose
syncs the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, TypeVar

from penstock.base.errors import Fenced, PenstockError
from penstock.base.rng import seeded_rng
from penstock.objects import DurableObject, Runtime, Stub
from penstock.objects.placement import name_owned_by
from penstock.storage.object_store import Chunks, FolderStore, ObjectInfo
from penstock.storage.ports import Ports
from penstock.storage.relay import Commit, Lane, OnDurable
from penstock.testing.sim.clock import SimClock
from penstock.testing.sim.disk import SimDisk
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.mount import Mount
from penstock.testing.sim.network import SimNetwork, SimTransport
from penstock.testing.sim.offload import SimOffload

T = TypeVar("T")

SECOND_MS = 1_000
HOUR_MS = 3_600 * SECOND_MS

_mounts = count()


@dataclass
class ManualRelay:
    """Commits become durable at once (on the next turn) unless they are held, and then when the test says so.

    `log` is what happened in order: `("ship", key)` and `("durable", key)`, the alarm index being `"alarms"`.
    """

    hold_all: bool = False
    held_keys: set[str] = field(default_factory=set)
    commits: dict[str, list[Commit]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    failure: Fenced | None = None
    _held: list[tuple[_ManualLane, Commit]] = field(default_factory=list)

    def open_lane(self, object_key: str, on_durable: OnDurable) -> Lane:
        return _ManualLane(self, object_key, on_durable)

    def hold(self, key: str | None = None) -> None:
        """Hold what is shipped from now on: of one object, or of all."""
        if key is None:
            self.hold_all = True
        else:
            self.held_keys.add(key)

    def release(self) -> None:
        """Everything held becomes durable, and what comes later at once."""
        self.hold_all = False
        self.held_keys.clear()
        self.sync()

    def sync(self) -> None:
        """Everything held so far becomes durable."""
        held, self._held = self._held, []
        for lane, commit in held:
            self.durable(lane, commit)

    def count(self, key: str) -> int:
        """Commits of an object so far."""
        return len(self.commits.get(key, []))

    def shipped(self, lane: _ManualLane, commit: Commit) -> None:
        self.commits.setdefault(lane.key, []).append(commit)
        self.log.append(("ship", lane.key))
        if self.hold_all or lane.key in self.held_keys:
            self._held.append((lane, commit))
        else:
            asyncio.get_running_loop().call_soon(self.durable, lane, commit)

    def durable(self, lane: _ManualLane, commit: Commit) -> None:
        self.log.append(("durable", lane.key))
        lane.on_durable(commit.position)


class _ManualLane:
    def __init__(self, relay: ManualRelay, key: str, on_durable: OnDurable) -> None:
        self._relay = relay
        self.key = key
        self.on_durable = on_durable

    def ship(self, commit: Commit) -> None:
        self._relay.shipped(self, commit)


class RecordingStore(FolderStore):
    """Buckets that tell what they were asked for."""

    puts: list[str]
    #: Keys and prefixes.
    reads: list[str]

    async def put(self, bucket: str, key: str, chunks: Chunks) -> int:
        self.puts.append(key)
        return await super().put(bucket, key, chunks)

    async def get(self, bucket: str, key: str) -> bytes:
        self.reads.append(key)
        return await super().get(bucket, key)

    async def list(
        self, bucket: str, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Sequence[ObjectInfo]:
        self.reads.append(prefix)
        return await super().list(bucket, prefix, after=after, limit=limit)


class Host:
    """One executor, for one life."""

    def __init__(self, world: World, slot: int) -> None:
        self.slot = slot
        self.relay = ManualRelay()
        self.fatal: list[PenstockError] = []
        self.tasks: asyncio.TaskGroup
        self.runtime: Runtime
        self.buckets: RecordingStore
        self._world = world
        self._mount = Mount(world.disk, f"objects-{next(_mounts)}", world.locks)
        self._buried = False
        self.offload = SimOffload(world.loop, seeded_rng(slot))
        self._transport: SimTransport
        self._ready = world.loop.create_future()
        self._life = world.loop.create_task(self._live())

    async def _live(self) -> None:
        world = self._world
        try:
            async with asyncio.TaskGroup() as self.tasks:
                self._transport = world.network.transport(self.slot, self.tasks)
                self.buckets = RecordingStore(self._mount, self.offload, "/data/buckets", "/data/unfinished")
                self.buckets.puts, self.buckets.reads = [], []
                ports = Ports(
                    clock=world.clock,
                    rng=seeded_rng(self.slot),
                    disk=self._mount,
                    offload=self.offload,
                    relay=self.relay,
                    transport=self._transport,
                    buckets=self.buckets,
                )
                self.runtime = Runtime(
                    ports,
                    "/data",
                    slot=self.slot,
                    executors=world.executors,
                    tasks=self.tasks,
                    on_fatal=self.fatal.append,
                )
                for cls in world.classes:
                    self.runtime.register(cls, world.env)
                await self.runtime.start()
                await self._transport.serve(self.runtime.answer, self.runtime.answer_streams)
                self._ready.set_result(None)
        except* asyncio.CancelledError:
            pass
        except* BaseException as errors:
            world.loop.call_exception_handler({"exception": errors})  # ends the test at once

    async def ready(self) -> Host:
        await self._ready
        return self

    async def stop(self) -> None:
        """End in order, as after SIGTERM."""
        await self.runtime.stop()
        await self.kill()

    async def kill(self) -> None:
        """End as by kill -9: what was written is there, nothing more happens."""
        self._mount.die()
        self.offload.kill()
        self._transport.close()
        self._life.cancel()
        await self._life
        if not self._buried:
            self._buried = True
            self._mount.bury()

    def spy_on_closes(self, closed: list[float]) -> None:
        """Note the time of each closing of a database from now on."""
        run = self.offload.run

        async def spying(lane: Any, work: Callable[[], T]) -> T:
            if getattr(work, "__name__", "") == "close":
                closed.append(self._world.loop.time())
            return await run(lane, work)

        self.offload.run = spying  # type: ignore[method-assign]

    def stub(self, cls: type[DurableObject[Any]], name: str) -> Stub:
        return self.runtime.namespace(cls.__name__).get_by_name(name)


class World:
    """`env` is what the classes are registered with: a place where objects leave traces for the test."""

    def __init__(
        self, loop: VirtualLoop, classes: tuple[type[DurableObject[Any]], ...], executors: int, env: Any = None
    ) -> None:
        self.loop = loop
        self.classes = classes
        self.executors = executors
        self.env: Any = SimpleNamespace(log=[]) if env is None else env
        self.clock = SimClock(loop)
        self.disk = SimDisk(seeded_rng(1))
        self.locks: dict[str, Mount] = {}
        self.network = SimNetwork(seeded_rng(2), loop)
        self.hosts: dict[int, Host] = {}

    async def start(self, slot: int = 0) -> Host:
        """Start an executor, the first or the next in its slot."""
        host = self.hosts[slot] = Host(self, slot)
        return await host.ready()

    @property
    def log(self) -> list[Any]:
        log: list[Any] = self.env.log
        return log

    @property
    def host(self) -> Host:
        return self.hosts[0]

    @property
    def relay(self) -> ManualRelay:
        return self.host.relay

    def stub(self, cls: type[DurableObject[Any]], name: str = "a") -> Stub:
        """A stub held by executor 0."""
        return self.host.stub(cls, name)

    def stub_on(self, slot: int, cls: type[DurableObject[Any]], name: str = "a") -> Stub:
        """A stub, held by executor 0, of an object that lives on executor `slot`."""
        return self.stub(cls, name_owned_by(cls.__name__, name, slot, self.executors))

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Not one byte more goes on the disk."""
        capacity, self.disk.capacity_bytes = self.disk.capacity_bytes, 0
        try:
            yield
        finally:
            self.disk.capacity_bytes = capacity

    async def elapse(self, ms: int) -> None:
        """Let time pass."""
        await self.clock.sleep_ms(ms)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, at most a minute, until something has happened."""
        for _ in range(60_000):
            if condition():
                return
            await self.clock.sleep_ms(1)
        raise AssertionError("it never came to pass")


def run(
    main: Callable[[World], Awaitable[T]],
    *classes: type[DurableObject[Any]],
    executors: int = 1,
    env: Any = None,
) -> T:
    """Run `main` in a new world whose executors have started; classes are registered with `env`, or with a log. A
    task of theirs that fails fails the test."""

    async def live(loop: VirtualLoop) -> T:
        world = World(loop, classes, executors, env)
        for slot in range(executors):
            await world.start(slot)
        result = await main(world)
        for host in world.hosts.values():
            await host.kill()
        return result

    return run_virtual(live, steps_max=100_000)


async def turns(count: int = 20) -> None:
    """Let everything that is ready run, without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


async def error_of(call: Awaitable[Any]) -> PenstockError:
    """The error that a call ends with."""
    try:
        result = await call
    except PenstockError as error:
        return error
    raise AssertionError(f"it gave {result!r}")


def start(call: Awaitable[T]) -> asyncio.Future[T]:
    """A call under way."""
    return asyncio.ensure_future(call)


def key_of(stub: Stub) -> str:
    """What the relay calls an object."""
    key: str = stub.id.key
    return key
