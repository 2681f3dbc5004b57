"""The ingest hot path: a request's body in, 200 only when its records are durable.

Plain ASGI, because at tens of thousands of requests a second each layer counts. Answers have the shape of
Cloudflare's ingest endpoint, which is not that of the control API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from msgspec import json

from penstock.base.errors import (
    Conflict,
    Forbidden,
    Internal,
    Invalid,
    Overloaded,
    PenstockError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from penstock.base.limits import DISCARDED_BYTES_MAX, Limits
from penstock.http.auth import Authenticator
from penstock.http.errors import headers_of, public, status_of
from penstock.http.request_id import RequestIds
from penstock.pipelines.broker import Broker, Route
from penstock.pipelines.records import CODE_NOT_JSON, Batch, parse_batch
from penstock.storage.disk_guard import DiskGuard

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger("penstock.http")


@dataclass(slots=True)
class IngestStatistics:
    """Counters since start; `refused` is by reason, the error's kind."""

    requests: int = 0
    records: int = 0
    bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    #: Bytes of bodies in memory now.
    inflight_bytes: int = 0


class ClientGone(Exception):
    """The client closed the connection before its body was complete: there is nobody to answer."""


class Ingest:
    def __init__(
        self, broker: Broker, authenticator: Authenticator, guard: DiskGuard, limits: Limits, ids: RequestIds
    ) -> None:
        self.statistics = IngestStatistics()
        self._broker = broker
        self._authenticator = authenticator
        self._guard = guard
        self._limits = limits
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
            if isinstance(error, _TooLargeAndUnread):
                await _discard_body(scope, receive)
            await _send_error(send, public(error), request_id)
            return
        except Exception as error:
            log.exception("ingest_failed", pipeline=pipeline[:64], request_id=request_id.decode())
            bug = Internal(repr(error))
            self._refused(bug.kind, pipeline, request_id, bug.message)
            await _send_error(send, public(bug), request_id)
            return
        body = b'{"success":true,"result":{"committed":%d}}' % records
        await _send(send, 200, body, [(b"x-request-id", request_id)])

    async def _ingest(self, pipeline: str, scope: Scope, receive: Receive) -> int:
        if scope["method"] != "POST":
            raise _MethodNotAllowed("Records are sent with POST.")
        length, authorization = _read_headers(scope)
        if length is not None and length > self._limits.body_bytes_max:
            raise self._too_large(length, unread=True)
        route = await self._admitted(pipeline, authorization)
        self._guard.check()
        statistics = self.statistics
        body = bytearray()
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                piece: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                if not more and not body:
                    # The common case: the whole body in one piece, used as it is.
                    statistics.inflight_bytes += len(piece)
                    try:
                        self._refuse_if_over_budget()
                        return await self._store(pipeline, route, authorization, piece)
                    finally:
                        statistics.inflight_bytes -= len(piece)
                body += piece
                statistics.inflight_bytes += len(piece)
                if len(body) > self._limits.body_bytes_max:
                    raise self._too_large(len(body), unread=more)
                self._refuse_if_over_budget()
            return await self._store(pipeline, route, authorization, body)
        finally:
            statistics.inflight_bytes -= len(body)

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
        return batch.records

    async def _store_by_new_plan(self, pipeline: str, authorization: str | None, batch: Batch) -> None:
        """The pipeline changed since its plan was cached: ask for it again, and what it demands now."""
        route = await self._admitted(pipeline, authorization)
        try:
            await self._broker.send(route, batch)
        except Conflict as error:
            raise Unavailable("The pipeline is being changed; nothing was stored.", retry_after_s=1) from error

    def _refuse_if_over_budget(self) -> None:
        limit = self._limits.inflight_bytes_max
        if self.statistics.inflight_bytes > limit:
            raise Overloaded(
                f"Too many request bytes await being written (inflight_bytes_max is {limit}). Nothing of this "
                "request was stored; send it again later.",
                retry_after_s=1,
            )

    def _too_large(self, size: int, *, unread: bool) -> TooLarge:
        kind = _TooLargeAndUnread if unread else TooLarge
        return kind(
            f"The body is larger than body_bytes_max, {self._limits.body_bytes_max} bytes (at least {size} were "
            "sent). Send fewer records at once.",
        )

    def _refused(self, reason: str, pipeline: str, request_id: bytes, message: str) -> None:
        self.statistics.refused[reason] = self.statistics.refused.get(reason, 0) + 1
        log.info(
            "ingest_refused", pipeline=pipeline[:64], reason=reason, request_id=request_id.decode(), error=message
        )


class _MethodNotAllowed(Invalid):
    pass


class _TooLargeAndUnread(TooLarge):
    """Some of the body is still to come."""


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


async def _discard_body(scope: Scope, receive: Receive) -> None:
    """Read what is left of a body that is too large. Many clients send all of it before they read the answer, and a
    connection that is closed on unread data is reset: they would see no answer at all. Those that asked first
    (`Expect: 100-continue`) get it at once, and so do those that would send very much."""
    headers = dict(scope["headers"])
    if b"expect" in headers or int(headers.get(b"content-length", 0)) > DISCARDED_BYTES_MAX:
        return
    discarded, more = 0, True
    while more and discarded <= DISCARDED_BYTES_MAX:
        message = await receive()
        discarded += len(message.get("body", b""))
        more = message.get("more_body", False)


async def _send_error(send: Send, error: PenstockError, request_id: bytes) -> None:
    status, headers = status_of(error), headers_of(error)
    if isinstance(error, _MethodNotAllowed):
        status, headers = 405, [(b"allow", b"POST")]
    if isinstance(error, TooLarge):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    body = json.encode({"success": False, "error": {"code": error.code, "message": error.message}})
    await _send(send, status, body, [*headers, (b"x-request-id", request_id)])


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    start_headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start_headers})
    await send({"type": "http.response.body", "body": body})
