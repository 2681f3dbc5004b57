"""Who may do what: the account's own token, which may do everything, and tokens with scopes."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from penstock.base.errors import Forbidden, Unauthenticated
from penstock.tokens.grants import ADMIN, Grants, Scope
from penstock.tokens.token_cache import TokenCache
from penstock.tokens.token_registry import is_secret, token_hash

#: Cloudflare's code for every failed authentication.
CODE_AUTHENTICATION = 10000


@dataclass(frozen=True, slots=True)
class Account:
    """The token itself is never kept: `token_sha256` is its hash in hexadecimal."""

    id: str
    token_sha256: str


class Authenticator:
    """Tokens are compared by their hashes: how long that takes tells nothing about a token."""

    def __init__(self, account: Account, tokens: TokenCache) -> None:
        self._account = account
        self._tokens = tokens

    async def require(self, authorization: str | None, scope: Scope, pipeline: str | None = None) -> None:
        """Raises `Unauthenticated` unless the `Authorization` header carries a token, `Forbidden` unless that has
        the scope, for the pipeline of this name where one is given; `Unavailable` if that cannot be known now."""
        require_cover(await self.identify(authorization), scope, pipeline)

    async def identify(self, authorization: str | None) -> Grants:
        """What the token in the `Authorization` header may do. Raises `Unauthenticated`, `Unavailable`."""
        if not authorization:
            raise Unauthenticated(
                "Authentication error: send the header 'Authorization: Bearer <token>'; on the server's machine, "
                "'penstock token' prints one.",
                code=CODE_AUTHENTICATION,
            )
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer":
            token = token.strip()
            sha256 = token_hash(token)
            if hmac.compare_digest(sha256, self._account.token_sha256):
                return ADMIN
            if is_secret(token):
                grants = await self._tokens.grants(sha256)
                if grants is not None:
                    return grants
        raise Unauthenticated(
            "Authentication error: the token is not valid. It may have expired or been revoked; on the server's "
            "machine, 'penstock token' prints one that is.",
            code=CODE_AUTHENTICATION,
        )

    def require_account(self, account_id: str) -> None:
        """Raises `Forbidden` unless tokens cover the account."""
        if account_id != self._account.id:
            raise Forbidden(
                f"The token does not cover account {account_id[:64]!r}; its account is {self._account.id}.",
                code=CODE_AUTHENTICATION,
            )


def require_cover(grants: Grants, scope: Scope, pipeline: str | None) -> None:
    """Raises `Forbidden` unless the grants cover the scope."""
    if not grants.cover(scope, pipeline):
        raise lacks_scope(scope, pipeline)


def require_scope(grants: Grants, scope: Scope) -> None:
    """Raises `Forbidden` unless the grants have the scope, if only for some pipelines."""
    if not grants.cover_any(scope):
        raise Forbidden(f"The token does not have the scope '{scope}'.", code=CODE_AUTHENTICATION)


def lacks_scope(scope: Scope, pipeline: str | None) -> Forbidden:
    what = ""
    if scope.startswith("pipelines:"):
        what = " for all pipelines" if pipeline is None else f" for pipeline {pipeline[:128]!r}"
    return Forbidden(f"The token does not have the scope '{scope}'{what}.", code=CODE_AUTHENTICATION)
