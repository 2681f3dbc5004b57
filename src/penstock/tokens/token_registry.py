"""Which tokens there are. One object for the whole instance.

It is asked when an operator makes, lists or revokes tokens, and by executors about a token that they have not asked
about lately (`token_cache.py`). A secret is made here, told once, and kept as its SHA-256 only: it is 256 random
bits, so nothing slower than one hash is needed.
"""

from __future__ import annotations

import hashlib
import re

from msgspec import Struct, json

from penstock.base.errors import Invalid, NotFound
from penstock.base.ids import random_id, random_secret
from penstock.base.limits import TOKENS_MAX
from penstock.objects import Context, DurableObject
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.tokens.grants import Grants
from penstock.tokens.settings import CODE_INVALID_TOKEN, TokenSettings

TOKEN_REGISTRY = "tokens"
CODE_NO_TOKEN = 1001

#: What every secret starts with, so that people and scanners know one when they see it.
_PREFIX = "pst_"
_SECRET = re.compile(_PREFIX + r"[0-9a-f]{64}")

_TABLES = """
CREATE TABLE IF NOT EXISTS tokens (
  sha256 TEXT PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  account TEXT NOT NULL,
  name TEXT NOT NULL,
  grants TEXT NOT NULL,          -- Grants
  created_ms INTEGER NOT NULL,
  expires_at_ms INTEGER          -- that of the grants
) STRICT
"""


def token_hash(token: str) -> str:
    """Its SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_secret(token: str) -> bool:
    """Whether it can be the secret of a token from here."""
    return _SECRET.fullmatch(token) is not None


class TokenDescription(Struct, frozen=True):
    """A token as it is, without its secret."""

    id: str
    name: str
    grants: Grants
    created_ms: int


class NewToken(Struct, frozen=True):
    description: TokenDescription
    secret: str


class TokenPage(Struct, frozen=True):
    tokens: list[TokenDescription]
    total: int


class TokenRegistry(DurableObject[None]):
    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        self._sql = SystemSql(system_storage(ctx.storage))
        self._sql.exec(_TABLES)

    def create(self, account: str, settings: TokenSettings) -> NewToken:
        """Make a token. Raises `Invalid` when there are too many."""
        now_ms = self.ctx.clock.now_ms()
        if self._count() >= TOKENS_MAX:
            self._sql.exec("DELETE FROM tokens WHERE expires_at_ms <= ?1", now_ms)
            if self._count() >= TOKENS_MAX:
                raise Invalid(
                    f"There are {TOKENS_MAX} tokens, the most there may be: revoke some.", code=CODE_INVALID_TOKEN
                )
        secret, id = _PREFIX + random_secret(self.ctx.rng), random_id(self.ctx.rng)
        self._sql.exec(
            "INSERT INTO tokens VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            token_hash(secret),
            id,
            account,
            settings.name,
            json.encode(settings.grants).decode(),
            now_ms,
            settings.grants.expires_at_ms,
        )
        return NewToken(TokenDescription(id, settings.name, settings.grants, now_ms), secret)

    def list(self, account: str, offset: int, limit: int) -> TokenPage:
        """The oldest first."""
        rows = self._sql.exec(
            "SELECT id, name, grants, created_ms FROM tokens WHERE account = ?1"
            " ORDER BY created_ms, id LIMIT ?2 OFFSET ?3",
            account,
            limit,
            offset,
        )
        tokens = [
            TokenDescription(id, name, json.decode(grants, type=Grants), created_ms)
            for id, name, grants, created_ms in rows
        ]
        total = self._sql.exec("SELECT count(*) FROM tokens WHERE account = ?1", account).one()[0]
        return TokenPage(tokens, total)

    def revoke(self, account: str, id: str) -> None:
        """Executors know within `TOKEN_TRUSTED_MS_MAX`. Raises `NotFound`."""
        deleted = self._sql.exec("DELETE FROM tokens WHERE account = ?1 AND id = ?2 RETURNING id", account, id)
        if deleted.first() is None:
            raise NotFound(f"There is no token with ID {id[:64]!r}.", code=CODE_NO_TOKEN)

    def grants(self, sha256: str) -> Grants | None:
        """Those of the token with this hash, expired ones included."""
        row = self._sql.exec("SELECT grants FROM tokens WHERE sha256 = ?1", sha256).first()
        return json.decode(row[0], type=Grants) if row else None

    def _count(self) -> int:
        count: int = self._sql.exec("SELECT count(*) FROM tokens").one()[0]
        return count
