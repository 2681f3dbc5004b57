"""One executor's parts, put together on a set of ports. The same for the real server and for the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from msgspec import msgpack

from penstock.apps import NO_APPLICATION, Application
from penstock.base.errors import PenstockError
from penstock.base.limits import METRICS_TIMEOUT_MS, USAGE_TIMEOUT_MS, Limits
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
from penstock.http.query import QueryRoutes
from penstock.http.reference import ReferenceRoutes
from penstock.http.replay import ReplayRoutes
from penstock.http.request_id import RequestIds
from penstock.http.tail import TailRoutes
from penstock.http.tokens import TokenRoutes
from penstock.http.usage import UsageRoutes
from penstock.http.verification import VerificationRoutes
from penstock.objects import Runtime, inspection
from penstock.pipelines.broker import Broker
from penstock.pipelines.coordinator import Coordinator
from penstock.pipelines.counters import PipelineCounters
from penstock.pipelines.environment import PipelineEnv, PipelineStatistics
from penstock.pipelines.idempotency_keys import IdempotencyKeys
from penstock.pipelines.query.process import StartQueryProcess, no_query_process
from penstock.pipelines.query.queries import Queries
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

#: Siblings' requests for metrics, and for what was counted of a pipeline. A call to an object is a msgpack array
#: and never starts like this.
_METRICS = b"metrics"
_USAGE = b"usage "


class Node:
    """`app` is the ASGI application, `answer` what siblings' requests are given to. `namespaces` are those of the
    user's classes, where they are not called after their class. `transforms` run the application's functions,
    `blocked_seconds` says how long the event loop has stood still. `restarts`: how many executors there were in the
    slot before."""

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
        restarts: int = 0,
        start_query_process: StartQueryProcess = no_query_process,
    ) -> None:
        self._ports = ports
        self._slot = slot
        self._executors = executors
        self._restarts = restarts
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
        self.ingest = Ingest(
            broker,
            authenticator,
            self.guard,
            limits,
            self.inflight,
            ids,
            ports.clock,
            self.statistics.by_pipeline,
        )
        self.objects = ObjectRequests(
            self.runtime, application, authenticator, self.guard, limits, self.inflight, ids
        )
        self._tails = TailRoutes(self.runtime, authenticator)
        self._queries = Queries(
            self.runtime, start_query_process, f"{folder}/queries/{slot}", buckets_folder=f"{folder}/buckets"
        )
        endpoints = [
            *OperationRoutes(lambda: self._ready, self._metrics, authenticator).endpoints,
            *PipelineRoutes(self.runtime, transforms, limits).endpoints,
            *VerificationRoutes(self.runtime).endpoints,
            *ReplayRoutes(Replayer(self.runtime, broker, self.guard), self.runtime, limits).endpoints,
            *TokenRoutes(self.runtime, limits, ports.clock).endpoints,
            *self._tails.endpoints,
            *QueryRoutes(self._queries, limits).endpoints,
            *UsageRoutes(self.runtime, self._counted).endpoints,
            *NamespaceRoutes(self.runtime, self.inspection, application, limits).endpoints,
            *ReferenceRoutes(lambda: self.app.operations).endpoints,
        ]
        self.app = App(self.ingest, self.objects, Control(endpoints, authenticator, ports.clock, ids))

    async def start(self) -> None:
        await self._queries.clean()
        await self.runtime.start()
        self._tasks.create_task(self.guard.run())
        self._ready = True

    def drain(self) -> None:
        """Tell load balancers to send requests elsewhere, and end what would not end by itself."""
        self._ready = False
        self._tails.drain()

    async def stop(self) -> None:
        """Close all objects. What they hold is durable already; this makes the next start quick."""
        self._ready = False
        await self.runtime.stop()

    async def answer(self, payload: bytes) -> bytes:
        if payload == _METRICS:
            return encode_families(self._families())
        if payload.startswith(_USAGE):
            return msgpack.encode(self.statistics.by_pipeline.known(payload.removeprefix(_USAGE).decode()))
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
            self._restarts,
        )

    async def _metrics(self, with_pipelines: bool) -> bytes:
        slots = range(self._executors)
        found = await asyncio.gather(*map(self._families_of, slots))
        return render(dict(zip(slots, found, strict=True)), with_pipelines)

    async def _counted(self, pipeline: str) -> list[PipelineCounters | None]:
        """What each executor counted of a pipeline since its start; None for one that did not answer."""
        return await asyncio.gather(*(self._counted_by(slot, pipeline) for slot in range(self._executors)))

    async def _counted_by(self, slot: int, pipeline: str) -> PipelineCounters | None:
        if slot == self._slot:
            return self.statistics.by_pipeline.known(pipeline)
        try:
            async with asyncio.timeout(USAGE_TIMEOUT_MS / 1000):
                answer = await self._ports.transport.request(slot, _USAGE + pipeline.encode())
                return msgpack.decode(answer, type=PipelineCounters)
        except (PenstockError, TimeoutError):
            return None

    async def _families_of(self, slot: int) -> list[Family] | None:
        if slot == self._slot:
            return self._families()
        try:
            async with asyncio.timeout(METRICS_TIMEOUT_MS / 1000):
                return decode_families(await self._ports.transport.request(slot, _METRICS))
        except (PenstockError, TimeoutError):
            return None
