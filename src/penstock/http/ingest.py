"""The ingest hot path: a request's body in, 200 only when its records are durable.

Plain ASGI, because at tens of thousands of requests a second each layer counts. Answers have the shape of
Cloudflare's ingest endpoint, which is not that of the control API.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from penstock.base.errors import (
    Conflict,
    Forbidden,
    Internal,
    Invalid,
    PenstockError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from penstock.base.limits import Limits
from penstock.http.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    TooLargeAndUnread,
    discard_body,
    receive_piece,
    send_error,
    send_json,
)
from penstock.http.auth import Authenticator
from penstock.http.errors import public
from penstock.http.inflight import Inflight
from penstock.http.request_id import RequestIds
from penstock.pipelines.broker import Broker, Route
from penstock.pipelines.counters import CountersByPipeline, PipelineCounters, add_to
from penstock.pipelines.records import CODE_NOT_JSON, Batch, parse_batch
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
        counters: CountersByPipeline,
    ) -> None:
        self.statistics = IngestStatistics()
        self._counters = counters
        self._broker = broker
        self._authenticator = authenticator
        self._guard = guard
        self._limits = limits
        self._inflight = inflight
        self._ids = ids

    async def handle(self, pipeline: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for the pipeline of this id."""
        self.statistics.requests += 1
        request_id = self._ids.next()
        try:
            records = await self._ingest(pipeline, scope, receive)
        except ClientGone:
            self._refused("client_gone", pipeline, request_id, "The client closed the connection.")
            return
        except PenstockError as error:
            self._refused(error.kind, pipeline, request_id, error.message)
            if isinstance(error, TooLargeAndUnread):
                await discard_body(scope, receive)
            await _send_error(send, public(error), request_id)
            return
        except Exception as error:
            log.exception("ingest_failed", pipeline=pipeline[:64], request_id=request_id.decode())
            bug = Internal(repr(error))
            self._refused(bug.kind, pipeline, request_id, bug.message)
            await _send_error(send, public(bug), request_id)
            return
        body = b'{"success":true,"result":{"committed":%d}}' % records
        await send_json(send, 200, body, [(b"x-request-id", request_id)])

    async def _ingest(self, pipeline: str, scope: Scope, receive: Receive) -> int:
        if scope["method"] != "POST":
            raise _MethodNotAllowed("Records are sent with POST.")
        length, authorization = _read_headers(scope)
        if length is not None and length > self._limits.body_bytes_max:
            raise self._too_large(length, unread=True)
        route = await self._admitted(pipeline, authorization)
        self._guard.check()
        inflight = self._inflight
        body = bytearray()
        try:
            more = True
            while more:
                piece, more = await receive_piece(receive)
                if not more and not body:
                    # The common case: the whole body in one piece, used as it is.
                    try:
                        inflight.add(len(piece))
                        return await self._store(pipeline, route, authorization, piece)
                    finally:
                        inflight.remove(len(piece))
                body += piece
                inflight.add(len(piece))
                if len(body) > self._limits.body_bytes_max:
                    raise self._too_large(len(body), unread=more)
            return await self._store(pipeline, route, authorization, body)
        finally:
            inflight.remove(len(body))

    async def _admitted(self, pipeline: str, authorization: str | None) -> Route:
        """The pipeline's route, if the request may use it."""
        route = await self._broker.route(pipeline)
        try:
            self._admit(route, authorization)
        except (Forbidden, Unauthenticated):
            route = await self._broker.newer_route(pipeline, route)
            self._admit(route, authorization)
        return route

    def _admit(self, route: Route, authorization: str | None) -> None:
        if not route.plan.http:
            raise Forbidden("This pipeline has no 'http' source.")
        if route.plan.authentication:
            self._authenticator.require_token(authorization)

    async def _store(self, pipeline: str, route: Route, authorization: str | None, body: bytes | bytearray) -> int:
        if len(body) > self._limits.body_bytes_max:
            raise self._too_large(len(body), unread=False)
        batch = parse_batch(body)
        try:
            await self._broker.send(route, batch)
        except Conflict:
            await self._store_by_new_plan(pipeline, authorization, batch)
        self.statistics.records += batch.records
        self.statistics.bytes += len(body)
        counters = self._counters_of(route)
        counters.requests += 1
        counters.records += batch.records
        counters.bytes += len(body)
        return batch.records

    async def _store_by_new_plan(self, pipeline: str, authorization: str | None, batch: Batch) -> None:
        """The pipeline changed since its plan was cached: ask for it again, and what it demands now."""
        route = await self._admitted(pipeline, authorization)
        try:
            await self._broker.send(route, batch)
        except Conflict as error:
            raise Unavailable("The pipeline is being changed; nothing was stored.", retry_after_s=1) from error

    def _counters_of(self, route: Route) -> PipelineCounters:
        return self._counters.of(route.plan.pipeline, route.plan.name)

    def _too_large(self, size: int, *, unread: bool) -> TooLarge:
        kind = TooLargeAndUnread if unread else TooLarge
        return kind(
            f"The body is larger than body_bytes_max, {self._limits.body_bytes_max} bytes (at least {size} were "
            "sent). Send fewer records at once.",
        )

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


class _MethodNotAllowed(Invalid):
    pass


def _read_headers(scope: Scope) -> tuple[int | None, str | None]:
    """The content length and the Authorization header."""
    length: int | None = None
    authorization: str | None = None
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value)
        elif name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise Invalid(
                f"Content-Encoding {value.decode('latin-1')[:64]!r} is not available; send the body as it is.",
                code=CODE_NOT_JSON,
            )
    return length, authorization


async def _send_error(send: Send, error: PenstockError, request_id: bytes) -> None:
    if isinstance(error, _MethodNotAllowed):
        await send_error(send, error, request_id, status=405, headers=[(b"allow", b"POST")])
    else:
        await send_error(send, error, request_id)
