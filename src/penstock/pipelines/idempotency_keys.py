"""Which shard has, or will have, the records of a request that carries an Idempotency-Key.

Such a request may come again to another executor, after a restart, under other settings and other shards. So the
first thing that is done for it is a *claim*: durably, this key goes to that shard, and whoever comes later is sent
there.
The shard stores the claim's `ref` in the same transaction as the records, and so knows whether it has them.

Where the claimed shard takes no more records, the claim moves, in an order that leaves no moment for both shards to
store them: first the old shard vows never to take this ref (`StreamShard.forgo`), unless it has it; when that is
durable the claim moves, and gets another ref.

A pipeline's keys are spread over a fixed number of these objects, so that nothing about them depends on how many
executors or shards there are.
"""

from __future__ import annotations

import hashlib

from msgspec import Struct

from penstock.base.errors import Conflict, Overloaded, Unprocessable
from penstock.base.limits import (
    IDEMPOTENCY_EXPIRED_SLICE,
    IDEMPOTENCY_KEY_MS,
    IDEMPOTENCY_KEYS_MAX,
    IDEMPOTENCY_PARTITIONS,
)
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.pipelines.environment import PipelineEnv

_TABLES = """
CREATE TABLE IF NOT EXISTS claims (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, so that no shard takes a new claim for an old one
  key TEXT NOT NULL UNIQUE,
  fingerprint TEXT NOT NULL,
  shard TEXT NOT NULL,
  moves INTEGER NOT NULL,
  records INTEGER,                       -- how many are stored, once that is known
  at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS claims_by_time ON claims (at_ms);
"""


class Claim(Struct, frozen=True):
    """`shard` is to store the request's records under `ref`, if it has not; `records` of them if that is known."""

    ref: str
    shard: str
    records: int | None


def partition_of(pipeline: str, key: str) -> str:
    """The name of the object that keeps a pipeline's key."""
    number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) % IDEMPOTENCY_PARTITIONS
    return f"{pipeline}/{number}"


def fingerprint_of(ndjson: bytes) -> str:
    """Tells one request's records from another's."""
    return hashlib.blake2b(ndjson, digest_size=16).hexdigest()


class IdempotencyKeys(DurableObject[PipelineEnv]):
    """Its name is the pipeline's id and the partition's number."""

    def __init__(self, ctx: Context, env: PipelineEnv) -> None:
        super().__init__(ctx, env)
        self._partition = ctx.name.rsplit("/", 1)[1]
        self._sql = SystemSql(system_storage(ctx.storage))
        self._sql.exec(_TABLES)

    def claim(self, key: str, fingerprint: str, shard: str) -> Claim:
        """The claim of this key; a new one, to `shard`, if there is none or it is older than `IDEMPOTENCY_KEY_MS`.

        Raises `Unprocessable` when the key came with another fingerprint, `Overloaded` when there are too many.
        """
        now_ms = self.ctx.clock.now_ms()
        row = self._sql.exec(
            "SELECT id, moves, shard, records, fingerprint, at_ms FROM claims WHERE key = ?1", key
        ).first()
        if row is not None and row[5] > now_ms - IDEMPOTENCY_KEY_MS:
            id, moves, claimed, records, first_fingerprint, _ = row
            if first_fingerprint != fingerprint:
                raise Unprocessable(
                    f"The Idempotency-Key {key!r} was used with another body in the last 24 hours. Nothing of this "
                    "request was stored; send it with a key of its own."
                )
            return Claim(self._ref(id, moves), claimed, records)
        if row is not None:
            self._sql.exec("DELETE FROM claims WHERE id = ?1", row[0])
        self._refuse_if_full(now_ms)
        if self.ctx.storage.get_alarm() is None:
            self.ctx.storage.set_alarm(now_ms + IDEMPOTENCY_KEY_MS)
        id = self._sql.exec(
            "INSERT INTO claims (key, fingerprint, shard, moves, at_ms) VALUES (?1, ?2, ?3, 0, ?4) RETURNING id",
            key,
            fingerprint,
            shard,
            now_ms,
        ).one()[0]
        return Claim(self._ref(id, 0), shard, None)

    def move(self, ref: str, shard: str) -> Claim:
        """Send the claim with this ref to another shard, unless somebody else has; gives the claim as it is then.
        The shard that had it must have forgone the ref. Raises `Conflict` when there is no such claim any more."""
        id, moves = self._numbers(ref)
        self._sql.exec(
            "UPDATE claims SET shard = ?1, moves = moves + 1 WHERE id = ?2 AND moves = ?3", shard, id, moves
        )
        row = self._sql.exec("SELECT moves, shard, records FROM claims WHERE id = ?1", id).first()
        if row is None:
            raise Conflict("The Idempotency-Key has expired meanwhile.")
        return Claim(self._ref(id, row[0]), row[1], row[2])

    def done(self, ref: str, records: int) -> None:
        """The records are stored: who asks for this claim again need not ask the shard."""
        id, moves = self._numbers(ref)
        self._sql.exec("UPDATE claims SET records = ?1 WHERE id = ?2 AND moves = ?3", records, id, moves)

    async def alarm(self, info: AlarmInfo) -> None:
        """Forget expired keys, in slices between which other calls run."""
        while self._delete_expired(self.ctx.clock.now_ms()) == IDEMPOTENCY_EXPIRED_SLICE:
            await self.ctx.storage.sync()
        oldest_ms = self._sql.exec("SELECT min(at_ms) FROM claims").one()[0]
        if oldest_ms is not None:
            self.ctx.storage.set_alarm(oldest_ms + IDEMPOTENCY_KEY_MS)

    def _delete_expired(self, now_ms: int) -> int:
        """At most a slice; gives how many."""
        expired = "SELECT id FROM claims WHERE at_ms <= ?1 ORDER BY at_ms LIMIT ?2"
        return len(
            self._sql.exec(
                f"DELETE FROM claims WHERE id IN ({expired}) RETURNING id",
                now_ms - IDEMPOTENCY_KEY_MS,
                IDEMPOTENCY_EXPIRED_SLICE,
            ).to_list()
        )

    def _refuse_if_full(self, now_ms: int) -> None:
        # An upper bound of their number, from two look-ups; exact as long as they go in the order they came.
        most = self._sql.exec("SELECT (SELECT max(id) FROM claims) - (SELECT min(id) FROM claims) + 1").one()[0]
        if (most or 0) >= IDEMPOTENCY_KEYS_MAX // IDEMPOTENCY_PARTITIONS and not self._delete_expired(now_ms):
            raise Overloaded(
                f"The pipeline has had {IDEMPOTENCY_KEYS_MAX} requests with an Idempotency-Key in 24 hours, and "
                "remembers each so long. Nothing of this request was stored; send it later, or without a key.",
                retry_after_s=60,
            )

    def _ref(self, id: int, moves: int) -> str:
        return f"{self._partition}.{id}.{moves}"

    def _numbers(self, ref: str) -> tuple[int, int]:
        _, id, moves = ref.split(".")
        return int(id), int(moves)
