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
from penstock.base.limits import IDEMPOTENCY_NOTES_MAX, PLAN_DOUBT_MS, PLAN_TTL_MS, PLANS_CACHED_MAX
from penstock.objects import Runtime, Stub
from penstock.pipelines.idempotency_keys import Claim, fingerprint_of, partition_of
from penstock.pipelines.plan import Plan
from penstock.pipelines.records import Batch
from penstock.pipelines.registry import REGISTRY
from penstock.pipelines.shard_keys import CODE_KEY_FORGONE
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
        #: Calls under way that tell a key its records are stored.
        self._notes = 0

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

    async def send(self, route: Route, batch: Batch, key: str | None = None) -> int:
        """Store a batch, with an Idempotency-Key once only; durable on return. Gives how many records are stored.

        Raises `Conflict` when the plan is outdated: get the route again, check again what it demands, and send once
        more. With a key also `Unprocessable`."""
        try:
            if key is not None:
                return await self._send_once(route, batch, key)
            stored: int = await self._choose(route).append(batch.ndjson, batch.records, route.plan.version)
            return stored
        except NotFound as error:
            self._routes.pop(route.plan.pipeline, None)
            raise Conflict(error.message) from error
        except Conflict:
            self._routes.pop(route.plan.pipeline, None)
            raise

    def _choose(self, route: Route) -> Stub:
        shards = route.near or route.all
        if not shards:
            self._routes.pop(route.plan.pipeline, None)
            raise Unavailable("The pipeline is being made; nothing was stored. Send it again.", retry_after_s=1)
        return shards[0] if len(shards) == 1 else self._ports.rng.choice(shards)

    async def _send_once(self, route: Route, batch: Batch, key: str) -> int:
        keys = self._runtime.namespace("IdempotencyKeys").get_by_name(partition_of(route.plan.pipeline, key))
        claim: Claim = await keys.claim(key, fingerprint_of(batch.ndjson), _name(self._choose(route)))
        if claim.records is not None:
            return claim.records
        stored = None
        if claim.shard in route.plan.shards:
            try:
                stored = await self._append_claimed(route, batch, claim)
            except Conflict as error:
                if error.code != CODE_KEY_FORGONE:
                    raise
        if stored is None:
            # A shard of another plan, or one that has forgone the claim already. It may have the records, though.
            stored = await self._shard(claim.shard).forgo(claim.ref)
        if stored is None:
            claim = await keys.move(claim.ref, _name(self._choose(route)))
            stored = await self._append_claimed(route, batch, claim)
        self._note_done(keys, claim, stored)
        return stored

    async def _append_claimed(self, route: Route, batch: Batch, claim: Claim) -> int:
        stored: int = await self._shard(claim.shard).append(
            batch.ndjson, batch.records, route.plan.version, claim.ref
        )
        return stored

    def _shard(self, name: str) -> Stub:
        return self._runtime.namespace("StreamShard").get_by_name(name)

    def _note_done(self, keys: Stub, claim: Claim, records: int) -> None:
        """Beside the answer, which need not wait: a retry that comes before, or after a crash, asks the shard."""
        if self._notes < IDEMPOTENCY_NOTES_MAX:
            self._notes += 1
            self._runtime.tasks.create_task(self._tell_done(keys, claim, records))

    async def _tell_done(self, keys: Stub, claim: Claim, records: int) -> None:
        try:
            await keys.done(claim.ref, records)
        except PenstockError as error:
            log.info("idempotency_key_not_noted", shard=claim.shard, error=error.message)
        finally:
            self._notes -= 1

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


def _name(shard: Stub) -> str:
    name = shard.id.name
    assert name is not None
    return name
