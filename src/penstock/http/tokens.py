"""`/client/v4/accounts/{account}/tokens`: tokens with scopes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec import Struct, structs
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.clock import Clock
from penstock.base.errors import StorageFull
from penstock.base.limits import Limits
from penstock.http.control import Endpoint, envelope, read_body
from penstock.http.parameters import PageInfo, Paging
from penstock.http.pipeline_answers import Time
from penstock.objects import Runtime, Stub
from penstock.tokens.grants import Scope
from penstock.tokens.settings import CODE_INVALID_TOKEN, TokenBody, parse_token
from penstock.tokens.token_registry import TOKEN_REGISTRY, NewToken, TokenDescription, TokenPage

_BASE = "/client/v4/accounts/{account}/tokens"
_PAGING = Paging(CODE_INVALID_TOKEN)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Token(Struct, frozen=True, kw_only=True):
    """A token, without its secret. It never expires if `expires_at` is null."""

    id: str
    name: str
    scopes: list[Scope]
    pipelines: list[str]
    created_at: Time
    expires_at: Time | None


class MadeToken(Token, frozen=True, kw_only=True):
    """With its secret as `token`, which is told this once."""

    token: str


class TokenRoutes:
    def __init__(self, runtime: Runtime, limits: Limits, clock: Clock) -> None:
        self._runtime = runtime
        self._limits = limits
        self._clock = clock
        self.endpoints = [
            Endpoint(
                *("POST", _BASE, "admin", self.create_token),
                tag="Tokens",
                body=TokenBody,
                result=MadeToken,
                errors=(StorageFull,),
            ),
            Endpoint(
                *("GET", _BASE, "admin", self.list_tokens),
                tag="Tokens",
                query=(_PAGING,),
                result=list[Token],
                info=PageInfo,
            ),
            Endpoint(
                *("DELETE", _BASE + "/{token}", "admin", self.revoke_token), tag="Tokens", errors=(StorageFull,)
            ),
        ]

    async def create_token(self, request: Request) -> Response:
        """Make a token.

        The answer has its secret, this once; the server keeps a SHA-256 of it. It works at once.
        """
        settings = parse_token(await read_body(request, self._limits), self._clock.now_ms())
        made: NewToken = await self._registry().create(request.path_params["account"], settings)
        response = envelope(MadeToken(**structs.asdict(_answer(made.description)), token=made.secret))
        response.headers["cache-control"] = "no-store"
        return response

    async def list_tokens(self, request: Request) -> Response:
        """List tokens.

        The oldest comes first.
        """
        page, per_page = _PAGING.read(request)
        found: TokenPage = await self._registry().list(
            request.path_params["account"], (page - 1) * per_page, per_page
        )
        info = PageInfo(page, per_page, len(found.tokens), found.total)
        return envelope([_answer(token) for token in found.tokens], result_info=info)

    async def revoke_token(self, request: Request) -> Response:
        """Revoke a token.

        It may still be taken for 5 seconds, because executors ask about a token at most so seldom.
        """
        await self._registry().revoke(request.path_params["account"], request.path_params["token"])
        return envelope(None)

    def _registry(self) -> Stub:
        return self._runtime.namespace("TokenRegistry").get_by_name(TOKEN_REGISTRY)


def _answer(token: TokenDescription) -> Token:
    expires_at_ms = token.grants.expires_at_ms
    return Token(
        id=token.id,
        name=token.name,
        scopes=token.grants.scopes,
        pipelines=token.grants.pipelines,
        created_at=_time(token.created_ms),
        expires_at=None if expires_at_ms is None else _time(expires_at_ms),
    )


def _time(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat().replace("+00:00", "Z")
