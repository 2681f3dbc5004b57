"""What a shard must recognise when it comes again: messages by their `dedup_id`, requests by their
Idempotency-Key."""

from __future__ import annotations

import hashlib

from penstock.base.errors import Overloaded, Unprocessable
from penstock.base.limits import QUEUE_RECOGNISED_MAX
from penstock.objects.sql import SystemSql

_TABLES = """
CREATE TABLE IF NOT EXISTS recognised (
  hash BLOB PRIMARY KEY,
  expires_ms INTEGER NOT NULL,
  fingerprint BLOB,                -- of a request
  stored INTEGER NOT NULL          -- of a request: how many messages of it were stored
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS recognised_by_time ON recognised (expires_ms);
"""
#: Expired entries that go with each new one: more than one, so that they become fewer.
_EXPIRED_SLICE = 4


class Recognised:
    """Part of a shard: writes here are in the transaction of the shard's own. Times are wall time."""

    def __init__(self, sql: SystemSql) -> None:
        self._sql = sql
        sql.exec(_TABLES)
        self._count: int = sql.exec("SELECT count(*) FROM recognised").one()[0]

    def request(self, key: str, fingerprint: bytes, now_ms: int) -> int | None:
        """How many messages of the request with this key were stored, None if it did not come yet. Raises
        `Unprocessable` if it came with another content."""
        row = self._sql.exec(
            "SELECT fingerprint, stored FROM recognised WHERE hash = ?1 AND expires_ms > ?2",
            _hash("key", key),
            now_ms,
        ).first()
        if row is None:
            return None
        if row[0] != fingerprint:
            raise Unprocessable(
                "This Idempotency-Key was used for other messages; give each request a key of its own."
            )
        stored: int = row[1]
        return stored

    def note_request(self, key: str, fingerprint: bytes, stored: int, now_ms: int, window_ms: int) -> None:
        self._add(_hash("key", key), now_ms, window_ms, fingerprint, stored)

    def is_new(self, dedup_id: str, now_ms: int, window_ms: int) -> bool:
        """Whether no message with this id came lately; from now on one has."""
        hash = _hash("id", dedup_id)
        row = self._sql.exec("SELECT expires_ms FROM recognised WHERE hash = ?1", hash).first()
        if row is not None and row[0] > now_ms:
            return False
        self._add(hash, now_ms, window_ms, None, 0)
        return True

    def _add(self, hash: bytes, now_ms: int, window_ms: int, fingerprint: bytes | None, stored: int) -> None:
        gone = self._sql.exec(
            "DELETE FROM recognised WHERE hash IN"
            " (SELECT hash FROM recognised WHERE expires_ms <= ?1 ORDER BY expires_ms LIMIT ?2) RETURNING 1",
            *(now_ms, _EXPIRED_SLICE),
        ).to_list()
        self._count -= len(gone)
        if self._count >= QUEUE_RECOGNISED_MAX:
            raise Overloaded(
                f"{self._count} ids and keys of this queue are remembered, the limit; they are forgotten when "
                "their window is over. Nothing was stored; send it again later, or use a shorter dedup_window_s.",
                retry_after_s=60,
            )
        self._sql.exec(
            "INSERT OR REPLACE INTO recognised VALUES (?1, ?2, ?3, ?4)",
            hash,
            now_ms + window_ms,
            fingerprint,
            stored,
        )
        self._count += 1


def _hash(kind: str, text: str) -> bytes:
    return hashlib.blake2b(f"{kind}/{text}".encode(), digest_size=16).digest()
