"""Who may do what. One account and its admin token, for now."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from penstock.base.errors import Forbidden, Unauthenticated

#: Cloudflare's code for every failed authentication.
CODE_AUTHENTICATION = 10000


@dataclass(frozen=True, slots=True)
class Account:
    """The token itself is never kept: `token_sha256` is its hash in hexadecimal. (The token is 256 random bits, so
    nothing slower than one hash is needed.)"""

    id: str
    token_sha256: str


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Authenticator:
    def __init__(self, account: Account) -> None:
        self._account = account

    def require_token(self, authorization: str | None) -> None:
        """Raises `Unauthenticated` unless the `Authorization` header carries the admin token."""
        if not authorization:
            raise Unauthenticated(
                "Authentication error: send the header 'Authorization: Bearer <token>'; the token is in "
                "credentials.toml in the server's data directory.",
                code=CODE_AUTHENTICATION,
            )
        scheme, _, token = authorization.partition(" ")
        known = hmac.compare_digest(token_hash(token.strip()), self._account.token_sha256)
        if scheme.lower() != "bearer" or not known:
            raise Unauthenticated("Authentication error: the token is not valid.", code=CODE_AUTHENTICATION)

    def require_account(self, account_id: str) -> None:
        """Raises `Forbidden` unless the token covers the account."""
        if account_id != self._account.id:
            raise Forbidden(
                f"The token does not cover account {account_id[:64]!r}; its account is {self._account.id}.",
                code=CODE_AUTHENTICATION,
            )
