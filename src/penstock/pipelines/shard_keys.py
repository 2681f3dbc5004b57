"""The Idempotency-Keys whose records a shard has, or has vowed never to take, by the refs of their claims."""

from __future__ import annotations

from penstock.base.clock import Clock
from penstock.base.errors import Conflict
from penstock.base.limits import IDEMPOTENCY_KEY_MS, SHARD_KEYS_EXPIRED_SLICE
from penstock.objects.sql import SystemSql

#: The claim has moved elsewhere, or is about to.
CODE_KEY_FORGONE = 1410

_TABLES = """
CREATE TABLE IF NOT EXISTS keys (
  key TEXT PRIMARY KEY,          -- Claim.ref
  records INTEGER,               -- NULL: forgone
  at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_time ON keys (at_ms);
"""


class ShardKeys:
    """Part of a shard: writes here are in the transaction of the shard's own."""

    def __init__(self, sql: SystemSql, clock: Clock) -> None:
        self._sql = sql
        self._clock = clock
        self._sql.exec(_TABLES)

    def stored(self, ref: str) -> int | None:
        """How many records are stored under `ref`, None if none were. Raises `Conflict` when they never will be."""
        row = self._sql.exec("SELECT records FROM keys WHERE key = ?1", ref).first()
        if row is None:
            return None
        if row[0] is None:
            raise Conflict("This shard was told not to take these records.", code=CODE_KEY_FORGONE)
        records: int = row[0]
        return records

    def store(self, ref: str, records: int) -> None:
        """They are stored in this transaction."""
        self._add(ref, records)

    def forgo(self, ref: str) -> int | None:
        """Vow never to take records under `ref`; gives how many there are if they are here already."""
        row = self._sql.exec("SELECT records FROM keys WHERE key = ?1", ref).first()
        if row is None:
            self._add(ref, None)
            return None
        records: int | None = row[0]
        return records

    def _add(self, ref: str, records: int | None) -> None:
        now_ms = self._clock.now_ms()
        # Twice the time that a claim lives: whoever saw the claim in its last moment may be on the way for a while.
        expired = "SELECT key FROM keys WHERE at_ms <= ?1 ORDER BY at_ms LIMIT ?2"
        self._sql.exec(
            f"DELETE FROM keys WHERE key IN ({expired})",
            now_ms - 2 * IDEMPOTENCY_KEY_MS,
            SHARD_KEYS_EXPIRED_SLICE,
        )
        self._sql.exec("INSERT INTO keys VALUES (?1, ?2, ?3)", ref, records, now_ms)
