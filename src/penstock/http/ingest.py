"""The ingest hot path: a request's body in, 200 only when its records are durable.

Plain ASGI, because at tens of thousands of requests a second each layer counts. Answers have the shape of
Cloudflare's ingest endpoint, which is not that of the control API.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from penstock.base.clock import Clock
from penstock.base.errors import Conflict, Forbidden, Internal, PenstockError, Unauthenticated, Unavailable
from penstock.base.limits import Limits
from penstock.http import cors
from penstock.http.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    TooLargeAndUnread,
    discard_body,
    send_answer,
    send_error,
    send_json,
)
from penstock.http.auth import Authenticator
from penstock.http.content_coding import read_coding
from penstock.http.errors import MethodNotAllowed, RawHeaders, public
from penstock.http.inflight import Inflight, InflightShare
from penstock.http.ingest_body import IngestBodies
from penstock.http.ingest_head import IngestHead, read_head
from penstock.http.request_id import RequestIds
from penstock.http.turns import Turns
from penstock.pipelines.broker import Broker, Route
from penstock.pipelines.counters import CountersByPipeline, PipelineCounters, add_to
from penstock.pipelines.records import parse_batch
from penstock.storage.disk_guard import DiskGuard

log = structlog.get_logger("penstock.http")


@dataclass(slots=True)
class IngestStatistics:
    """Counters since start; `refused` is by reason, the error's kind."""

    requests: int = 0
    records: int = 0
    bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class Ingest:
    def __init__(
        self,
        broker: Broker,
        authenticator: Authenticator,
        guard: DiskGuard,
        limits: Limits,
        inflight: Inflight,
        ids: RequestIds,
        clock: Clock,
        counters: CountersByPipeline,
    ) -> None:
        self.statistics = IngestStatistics()
        self.limits = limits
        self._counters = counters
        self._broker = broker
        self._authenticator = authenticator
        self._guard = guard
        self._bodies = IngestBodies(limits.body_bytes_max, clock)
        self._inflight = inflight
        self._ids = ids
        self._turns = Turns(clock)

    async def handle(self, pipeline: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for the pipeline of this id."""
        self.statistics.requests += 1
        request_id = self._ids.next()
        head = read_head(scope)
        visible: RawHeaders = ()
        try:
            if head.origin is not None:
                visible = await self._cors_headers(pipeline, head.origin)
                if scope["method"] == "OPTIONS" and head.asked_method is not None:
                    await _send_preflight(send, head.origin, request_id, allowed=bool(visible))
                    return
            records = await self._ingest(pipeline, scope["method"], head, receive)
        except ClientGone:
            self._refused("client_gone", pipeline, request_id, "The client closed the connection.")
            return
        except PenstockError as error:
            self._refused(error.kind, pipeline, request_id, error.message)
            if isinstance(error, TooLargeAndUnread):
                await discard_body(scope, receive)
            await send_error(send, public(error, request_id.decode()), request_id, visible)
            return
        except Exception as error:
            log.exception("ingest_failed", pipeline=pipeline[:64], request_id=request_id.decode())
            bug = Internal(repr(error))
            self._refused(bug.kind, pipeline, request_id, bug.message)
            await send_error(send, public(bug, request_id.decode()), request_id, visible)
            return
        body = b'{"success":true,"result":{"committed":%d}}' % records
        await send_json(send, 200, body, [*visible, (b"x-request-id", request_id)])

    async def _cors_headers(self, pipeline: str, origin: bytes) -> RawHeaders:
        """What lets a page of this origin see the answer; nothing where it may not."""
        route = await self._broker.route(pipeline)
        if not cors.allows(route.plan, origin):
            route = await self._broker.newer_route(pipeline, route)
        return cors.answer_headers(origin) if cors.allows(route.plan, origin) else ()

    async def _ingest(self, pipeline: str, method: str, head: IngestHead, receive: Receive) -> int:
        if method != "POST":
            raise MethodNotAllowed("Records are sent with POST.", headers=((b"allow", b"POST"),))
        key = head.checked_key()
        coding = read_coding(head.coding) if head.coding is not None else None
        self._bodies.check_size(head.length or 0, unread=True)
        route = await self._admitted(pipeline, head.authorization)
        self._guard.check()
        with InflightShare(self._inflight, pipeline) as share:
            body = await self._bodies.receive(receive, share)
            if coding is not None:
                body = await self._bodies.inflated(coding, body, share)
            return await self._store(pipeline, route, head.authorization, key, body)

    async def _admitted(self, pipeline: str, authorization: str | None) -> Route:
        """The pipeline's route, if the request may use it."""
        route = await self._broker.route(pipeline)
        try:
            await self._admit(route, authorization)
        except (Forbidden, Unauthenticated):
            route = await self._broker.newer_route(pipeline, route)
            await self._admit(route, authorization)
        return route

    async def _admit(self, route: Route, authorization: str | None) -> None:
        if not route.plan.http:
            raise Forbidden("This pipeline has no 'http' source.")
        if route.plan.authentication:
            await self._authenticator.require(authorization, "pipelines:send", route.plan.name)

    async def _store(
        self, pipeline: str, route: Route, authorization: str | None, key: str | None, body: bytes | bytearray
    ) -> int:
        await self._turns.take(pipeline)
        batch = parse_batch(body)
        try:
            records = await self._broker.send(route, batch, key)
        except Conflict:
            # The pipeline changed since its plan was cached: ask for it again, and what it demands now.
            route = await self._admitted(pipeline, authorization)
            try:
                records = await self._broker.send(route, batch, key)
            except Conflict as error:
                raise Unavailable("The pipeline is being changed; nothing was stored.", retry_after_s=1) from error
        self.statistics.records += records
        self.statistics.bytes += len(body)
        counters = self._counters_of(route)
        counters.requests += 1
        counters.records += records
        counters.bytes += len(body)
        return records

    def _counters_of(self, route: Route) -> PipelineCounters:
        return self._counters.of(route.plan.pipeline, route.plan.name)

    def _refused(self, reason: str, pipeline: str, request_id: bytes, message: str) -> None:
        add_to(self.statistics.refused, reason)
        route = self._broker.cached(pipeline)
        if route is not None:  # else nobody knows that there is such a pipeline
            counters = self._counters_of(route)
            counters.requests += 1
            add_to(counters.refused, reason)
        log.info(
            "ingest_refused", pipeline=pipeline[:64], reason=reason, request_id=request_id.decode(), error=message
        )


async def _send_preflight(send: Send, origin: bytes, request_id: bytes, *, allowed: bool) -> None:
    if allowed:
        await send_answer(send, 204, b"", [*cors.preflight_headers(origin), (b"x-request-id", request_id)])
    else:
        await send_error(send, Forbidden("The pipeline's 'cors.origins' do not name this origin."), request_id)
