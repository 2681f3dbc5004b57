"""`/client/v4/accounts/{account}/tokens`: tokens with scopes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.base.clock import Clock
from penstock.base.limits import LIST_PER_PAGE_MAX, Limits
from penstock.http.control import Endpoint, envelope, read_body, read_number
from penstock.objects import Runtime, Stub
from penstock.tokens.settings import CODE_INVALID_TOKEN, parse_token
from penstock.tokens.token_registry import TOKEN_REGISTRY, NewToken, TokenDescription, TokenPage

_BASE = "/client/v4/accounts/{account}/tokens"
_PER_PAGE_DEFAULT = 20
_PAGE_MAX = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TokenRoutes:
    def __init__(self, runtime: Runtime, limits: Limits, clock: Clock) -> None:
        self._runtime = runtime
        self._limits = limits
        self._clock = clock
        self.endpoints = [
            Endpoint("POST", _BASE, "admin", self.create),
            Endpoint("GET", _BASE, "admin", self.list),
            Endpoint("DELETE", _BASE + "/{token}", "admin", self.revoke),
        ]

    async def create(self, request: Request) -> Response:
        settings = parse_token(await read_body(request, self._limits), self._clock.now_ms())
        made: NewToken = await self._registry().create(request.path_params["account"], settings)
        response = envelope(_rendered(made.description) | {"token": made.secret})
        response.headers["cache-control"] = "no-store"
        return response

    async def list(self, request: Request) -> Response:
        page = read_number(request, "page", 1, _PAGE_MAX, CODE_INVALID_TOKEN)
        per_page = read_number(request, "per_page", _PER_PAGE_DEFAULT, LIST_PER_PAGE_MAX, CODE_INVALID_TOKEN)
        found: TokenPage = await self._registry().list(
            request.path_params["account"], (page - 1) * per_page, per_page
        )
        info = {"page": page, "per_page": per_page, "count": len(found.tokens), "total_count": found.total}
        return envelope([_rendered(token) for token in found.tokens], result_info=info)

    async def revoke(self, request: Request) -> Response:
        await self._registry().revoke(request.path_params["account"], request.path_params["token"])
        return envelope(None)

    def _registry(self) -> Stub:
        return self._runtime.namespace("TokenRegistry").get_by_name(TOKEN_REGISTRY)


def _rendered(token: TokenDescription) -> dict[str, Any]:
    expires_at_ms = token.grants.expires_at_ms
    return {
        "id": token.id,
        "name": token.name,
        "scopes": token.grants.scopes,
        "pipelines": token.grants.pipelines,
        "created_at": _time(token.created_ms),
        "expires_at": None if expires_at_ms is None else _time(expires_at_ms),
    }


def _time(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat().replace("+00:00", "Z")
