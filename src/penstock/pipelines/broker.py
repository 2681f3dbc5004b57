"""The front of all pipelines on one executor: it knows their plans and hands records to a shard.

It keeps nothing that matters: a lost broker loses no record, and a plan that it lacks costs one call to the
pipeline's coordinator.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass

import structlog

from penstock.base.errors import Conflict, NotFound, PenstockError, Unavailable
from penstock.base.limits import PLAN_DOUBT_MS, PLAN_TTL_MS, PLANS_CACHED_MAX
from penstock.objects import Runtime, Stub
from penstock.pipelines.plan import Plan
from penstock.pipelines.records import Batch
from penstock.pipelines.registry import REGISTRY
from penstock.pipelines.stream_shard import CODE_UNKNOWN_PIPELINE

#: The shape of `base/ids.py: random_id`.
_ID = re.compile(r"[0-9a-f]{32}")

log = structlog.get_logger("penstock.pipelines")


@dataclass(slots=True)
class Route:
    """A plan with the shards it names, those of this executor first choice."""

    plan: Plan
    near: list[Stub]
    all: list[Stub]
    fetched_ms: int


class Broker:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ports = runtime.ports
        self._routes: OrderedDict[str, Route] = OrderedDict()
        self._refreshing: set[str] = set()

    async def route(self, pipeline: str) -> Route:
        """The plan of a pipeline by its id. Raises `NotFound`, `Unavailable`."""
        route = self._routes.get(pipeline)
        if route is None:
            return await self._fetch(pipeline)
        if self._age_ms(route) > PLAN_TTL_MS and pipeline not in self._refreshing:
            self._refreshing.add(pipeline)
            self._runtime.tasks.create_task(self._refresh(pipeline))
        return route

    def cached(self, pipeline: str) -> Route | None:
        """The route, if it is known; it may be old."""
        return self._routes.get(pipeline)

    async def newer_route(self, pipeline: str, route: Route) -> Route:
        """Ask again if `route` is not quite new: what it forbids may be allowed by now."""
        return await self._fetch(pipeline) if self._age_ms(route) > PLAN_DOUBT_MS else route

    def _age_ms(self, route: Route) -> int:
        return self._ports.clock.elapsed_ms() - route.fetched_ms

    async def send(self, route: Route, batch: Batch) -> None:
        """Store a batch; durable on return. Raises `Conflict` when the plan is outdated: get the route again, check
        again what it demands, and send once more."""
        shards = route.near or route.all
        shard = shards[0] if len(shards) == 1 else self._ports.rng.choice(shards)
        try:
            await shard.append(batch.ndjson, batch.records, route.plan.version)
        except NotFound as error:
            self._routes.pop(route.plan.pipeline, None)
            raise Conflict(error.message) from error
        except Conflict:
            self._routes.pop(route.plan.pipeline, None)
            raise

    async def _fetch(self, pipeline: str) -> Route:
        registry = self._runtime.namespace("Registry").get_by_name(REGISTRY)
        # Looked at first: what cannot be an id costs nobody a call.
        if not _ID.fullmatch(pipeline) or not await registry.exists(pipeline):
            self._routes.pop(pipeline, None)
            raise NotFound(
                f"There is no pipeline with ID {pipeline[:64]!r}; 'penstock pipelines list' shows all IDs.",
                code=CODE_UNKNOWN_PIPELINE,
            )
        plan: Plan = await self._runtime.namespace("Coordinator").get_by_name(pipeline).plan()
        stubs = [self._runtime.namespace("StreamShard").get_by_name(name) for name in plan.shards]
        near = [stub for stub in stubs if stub.slot == self._runtime.slot]
        route = Route(plan, near, stubs, self._ports.clock.elapsed_ms())
        self._routes[pipeline] = route
        while len(self._routes) > PLANS_CACHED_MAX:
            self._routes.popitem(last=False)
        return route

    async def _refresh(self, pipeline: str) -> None:
        """An old plan is good enough to go on with while it is fetched again, or cannot be."""
        try:
            async with asyncio.timeout(PLAN_TTL_MS / 1000):
                await self._fetch(pipeline)
        except (Unavailable, TimeoutError) as error:
            log.info("plan_not_refreshed", pipeline=pipeline, error=str(error))
        except PenstockError as error:
            self._routes.pop(pipeline, None)
            log.info("plan_dropped", pipeline=pipeline, error=error.message)
        finally:
            self._refreshing.discard(pipeline)
