"""The control API's frame: routes with a policy each, authentication, Cloudflare's v4 envelope, request logs.

A route without a policy cannot be written: `Endpoint` demands one, and the scope that it names is what the frame
enforces before the handler sees anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from msgspec import json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope as AsgiScope

from penstock.base.clock import Clock
from penstock.base.errors import Internal, Invalid, PenstockError, TooLarge
from penstock.base.limits import Limits
from penstock.base.request_id import bind_request_id
from penstock.http.auth import Authenticator, require_cover, require_scope
from penstock.http.description import (
    JSON,
    Answer,
    Operation,
    Policy,
    Tag,
    frame_errors,
    path_parameters,
    query_parameters,
    words_of,
)
from penstock.http.errors import headers_of, public, status_of
from penstock.http.parameters import Paging, QueryParameter
from penstock.http.request_id import RequestIds
from penstock.tokens.grants import Grants, Scope

log = structlog.get_logger("penstock.http")

Handler = Callable[[Request], Awaitable[Response]]

#: Cloudflare's code for a path that leads nowhere.
CODE_NO_ROUTE = 7003


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`public` needs no token and must reveal nothing of a tenant; else a token with that scope is needed, covering
    the pipeline that a `{name}` in the path is the name of. With `names_in_body` it is the handler that checks, by
    `grants_of`, each pipeline that a body names; a token for some pipelines will do until then."""

    method: str
    path: str
    policy: Policy
    handler: Handler
    names_in_body: bool = False
    #: For the reference (`openapi.py`), which also takes the handler's name and its docstring: of the query, the
    #: body, the result in the envelope and the `result_info` beside it, and what the handler raises itself.
    tag: Tag = field(kw_only=True)
    query: Sequence[QueryParameter | Paging] = field(default=(), kw_only=True)
    body: Any = field(default=None, kw_only=True)
    result: Any = field(default=None, kw_only=True)
    info: Any = field(default=None, kw_only=True)
    errors: tuple[type[PenstockError], ...] = field(default=(), kw_only=True)
    #: Instead of one with the result, where it is not in the envelope.
    answers: tuple[Answer, ...] = field(default=(), kw_only=True)
    #: It is public, and tells more to whoever sends a token with this scope.
    more_with: Scope | None = field(default=None, kw_only=True)

    @property
    def operation(self) -> Operation:
        summary, text = words_of(self.handler)
        framed = frame_errors(
            self.more_with or self.policy, self.path, query=bool(self.query), body=self.body is not None
        )
        return Operation(
            id=self.handler.__name__,
            tag=self.tag,
            method=self.method,
            path=self.path,
            policy=self.more_with or self.policy,
            token_optional=self.more_with is not None,
            summary=summary,
            text=text,
            parameters=[*path_parameters(self.path), *query_parameters(self.query)],
            body={JSON: self.body} if self.body is not None else None,
            answers=self.answers or (Answer(type=self.result, info=self.info),),
            errors=framed | set(self.errors),
        )


def envelope(result: Any, status: int = 200, **more: Any) -> Response:
    """A success in the v4 envelope."""
    body = {"success": True, "errors": [], "messages": [], "result": result, **more}
    return Response(json.encode(body), status, media_type="application/json")


def error_envelope(error: PenstockError, status: int | None = None) -> Response:
    body = {
        "success": False,
        "errors": [{"code": error.code, "message": error.message}],
        "messages": [],
        "result": None,
    }
    response = Response(json.encode(body), status or status_of(error), media_type="application/json")
    for name, value in headers_of(error):
        response.headers[name.decode()] = value.decode()
    return response


def grants_of(request: Request) -> Grants:
    """What the token of a request to an endpoint with `names_in_body` may do."""
    grants: Grants = request.state.grants
    return grants


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body, whatever its content type says. Raises `TooLarge`, `Invalid`."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > limits.control_body_bytes_max:
                raise TooLarge(
                    f"The body is larger than control_body_bytes_max, {limits.control_body_bytes_max} bytes."
                )
    except ClientDisconnect:
        raise Invalid("The client closed the connection before its body was complete.") from None
    return bytes(body)


class Control:
    """Builds the Starlette application from endpoints."""

    def __init__(
        self, endpoints: Sequence[Endpoint], authenticator: Authenticator, clock: Clock, ids: RequestIds
    ) -> None:
        self.endpoints = endpoints
        self._authenticator = authenticator
        self._clock = clock
        self._ids = ids
        self._routes = [
            Route(endpoint.path, self._framed(endpoint), methods=[endpoint.method]) for endpoint in endpoints
        ]
        self.app = Starlette(routes=self._routes, exception_handlers={HTTPException: self._no_route})
        # A path with a slash too many is a wrong path, not a redirect to a right one.
        self.app.router.redirect_slashes = False

    def _framed(self, endpoint: Endpoint) -> Handler:
        async def handle(request: Request) -> Response:
            request_id = self._ids.next().decode()
            bind_request_id(request_id)
            started_ms = self._clock.elapsed_ms()
            response = await self._answer(endpoint, request, request_id)
            response.headers["x-request-id"] = request_id
            if endpoint.policy != "public":
                log.info(
                    "request",
                    method=endpoint.method,
                    path=request.url.path,
                    status=response.status_code,
                    duration_ms=self._clock.elapsed_ms() - started_ms,
                    request_id=request_id,
                )
            return response

        return handle

    async def _answer(self, endpoint: Endpoint, request: Request, request_id: str) -> Response:
        try:
            if endpoint.policy != "public":
                grants = await self._authenticator.identify(request.headers.get("authorization"))
                if "account" in request.path_params:
                    self._authenticator.require_account(request.path_params["account"])
                if endpoint.names_in_body:
                    require_scope(grants, endpoint.policy)
                    request.state.grants = grants
                else:
                    require_cover(grants, endpoint.policy, request.path_params.get("name"))
            return await endpoint.handler(request)
        except PenstockError as error:
            log.info("request_refused", reason=error.kind, error=error.message, request_id=request_id)
            return error_envelope(public(error, request_id))
        except Exception as error:
            log.exception("request_failed", path=request.url.path, request_id=request_id)
            return error_envelope(public(Internal(repr(error)), request_id))

    def _methods_of(self, scope: AsgiScope) -> list[str]:
        """What the path of a request may be asked with. (Starlette itself names the methods of one route only.)"""
        matching = [route for route in self._routes if route.matches(scope)[0] is not Match.NONE]
        return sorted({method for route in matching for method in route.methods or ()})

    async def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            problem = f"{request.url.path[:200]} does not take {request.method}."
            error.headers = {"allow": ", ".join(self._methods_of(request.scope))}
        else:
            problem = f"There is no route {request.url.path[:200]}."
        response = error_envelope(PenstockError(problem, code=CODE_NO_ROUTE), error.status_code)
        response.headers.update(error.headers or {})
        request_id = response.headers["x-request-id"] = self._ids.next().decode()
        log.info("request_refused", reason="no_route", error=problem, request_id=request_id)
        return response
