"""One executor's parts, put together on a set of ports. The same for the real server and for the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from penstock.apps import NO_APPLICATION, Application
from penstock.base.errors import PenstockError
from penstock.base.limits import METRICS_TIMEOUT_MS, Limits
from penstock.http.app import App
from penstock.http.auth import Account, Authenticator
from penstock.http.control import Control
from penstock.http.inflight import Inflight
from penstock.http.ingest import Ingest
from penstock.http.metrics import Family, collect, decode_families, encode_families, render
from penstock.http.namespaces import NamespaceRoutes
from penstock.http.objects import ObjectRequests
from penstock.http.operations import OperationRoutes
from penstock.http.pipelines import PipelineRoutes
from penstock.http.replay import ReplayRoutes
from penstock.http.request_id import RequestIds
from penstock.http.tokens import TokenRoutes
from penstock.http.verification import VerificationRoutes
from penstock.objects import Runtime, inspection
from penstock.pipelines.broker import Broker
from penstock.pipelines.coordinator import Coordinator
from penstock.pipelines.environment import PipelineEnv, PipelineStatistics
from penstock.pipelines.idempotency_keys import IdempotencyKeys
from penstock.pipelines.registry import Registry
from penstock.pipelines.replay import Replayer
from penstock.pipelines.spool import Spool
from penstock.pipelines.stream_shard import StreamShard
from penstock.pipelines.transforms import Transforms
from penstock.storage.disk_guard import DiskGuard
from penstock.storage.ports import Ports
from penstock.storage.relay import RelayStatistics
from penstock.tokens.token_cache import TokenCache
from penstock.tokens.token_registry import TokenRegistry

#: The server's own classes of objects. No user class may have one of their names.
PIPELINE_CLASSES = (Registry, Coordinator, StreamShard, IdempotencyKeys)
OWN_NAMES = tuple(cls.__name__ for cls in (*PIPELINE_CLASSES, TokenRegistry))

#: A sibling's request for metrics. A call to an object is a msgpack array and never starts like this.
_METRICS = b"metrics"


class Node:
    """`app` is the ASGI application, `answer` what siblings' requests are given to. `namespaces` are those of the
    user's classes, where they are not called after their class. `transforms` run the application's functions,
    `blocked_seconds` says how long the event loop has stood still."""

    def __init__(
        self,
        ports: Ports,
        folder: str,
        account: Account,
        limits: Limits,
        relay_statistics: RelayStatistics,
        *,
        slot: int,
        executors: int,
        tasks: asyncio.TaskGroup,
        on_fatal: Callable[[PenstockError], None],
        application: Application = NO_APPLICATION,
        namespaces: Mapping[str, str] | None = None,
        transforms: Transforms,
        blocked_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._ports = ports
        self._slot = slot
        self._executors = executors
        self._tasks = tasks
        self._ready = False
        self._relay_statistics = relay_statistics
        self._blocked_seconds = blocked_seconds
        self.statistics = PipelineStatistics()
        self.transforms = transforms
        self.runtime = Runtime(
            ports,
            folder,
            slot=slot,
            executors=executors,
            tasks=tasks,
            on_fatal=on_fatal,
            wal_bytes_max=limits.wal_bytes_max,
        )
        env = PipelineEnv(
            limits,
            executors,
            self.statistics,
            transforms,
            Spool(ports.disk, f"{folder}/spool"),
            ports.offload,
        )
        for cls in PIPELINE_CLASSES:
            self.runtime.register(cls, env, internal=True)
        self.runtime.register(TokenRegistry, None, internal=True)
        for user_class in application.classes:
            self.runtime.register(user_class, application.env, (namespaces or {}).get(user_class.__name__))
        self.inspection = inspection.Inspection(self.runtime, folder)
        self.guard = DiskGuard(ports.disk, folder, limits.disk_reserve_bytes, ports.clock, ports.offload)
        ids = RequestIds(ports.rng)
        authenticator = Authenticator(account, TokenCache(self.runtime))
        self.inflight = Inflight(limits.inflight_bytes_max)
        broker = Broker(self.runtime)
        self.ingest = Ingest(broker, authenticator, self.guard, limits, self.inflight, ids, ports.clock)
        self.objects = ObjectRequests(
            self.runtime, application, authenticator, self.guard, limits, self.inflight, ids
        )
        endpoints = [
            *OperationRoutes(lambda: self._ready, self._metrics).endpoints,
            *PipelineRoutes(self.runtime, transforms, limits).endpoints,
            *VerificationRoutes(self.runtime).endpoints,
            *ReplayRoutes(Replayer(self.runtime, broker, self.guard), self.runtime, limits).endpoints,
            *TokenRoutes(self.runtime, limits, ports.clock).endpoints,
            *NamespaceRoutes(self.runtime, self.inspection, application, limits).endpoints,
        ]
        self.app = App(self.ingest, self.objects, Control(endpoints, authenticator, ports.clock, ids))

    async def start(self) -> None:
        await self.runtime.start()
        self._tasks.create_task(self.guard.run())
        self._ready = True

    def drain(self) -> None:
        """Tell load balancers to send requests elsewhere."""
        self._ready = False

    async def stop(self) -> None:
        """Close all objects. What they hold is durable already; this makes the next start quick."""
        self._ready = False
        await self.runtime.stop()

    async def answer(self, payload: bytes) -> bytes:
        if payload == _METRICS:
            return encode_families(self._families())
        if payload.startswith(inspection.PREFIX):
            return await self.inspection.answer(payload)
        return await self.runtime.answer(payload)

    def _families(self) -> list[Family]:
        return collect(
            self.ingest.statistics,
            self.statistics,
            self._relay_statistics,
            self.runtime,
            self.guard,
            self.inflight,
            self.objects.statistics,
            self._blocked_seconds(),
        )

    async def _metrics(self) -> bytes:
        slots = range(self._executors)
        return render(dict(zip(slots, await asyncio.gather(*map(self._families_of, slots)), strict=True)))

    async def _families_of(self, slot: int) -> list[Family] | None:
        if slot == self._slot:
            return self._families()
        try:
            async with asyncio.timeout(METRICS_TIMEOUT_MS / 1000):
                return decode_families(await self._ports.transport.request(slot, _METRICS))
        except (PenstockError, TimeoutError):
            return None
