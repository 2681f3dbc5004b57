"""The durable buffer of a pipeline, and the way of its records into files.

A request's records are one row. Rows are numbered without gaps, and each carries running totals of records and
bytes, so that the size of any range is a subtraction. From left to right a shard's rows are:

    freed          | delivered, being freed | sealed              | pending           | next row
    gone             a file holds them        a file is promised    waiting for a file

**Sealing** is one transaction: it fixes the range, the ULID and the key of a file before the first byte of it
is made. Making and writing the file is then repeatable, and gives the same bytes under the same key, until a
second transaction records that it was delivered. Whatever crash comes between, each record lands in exactly
one file.

The alarm is the only driver: whoever finds that a file is due, or may become due, sets it; `alarm()` seals,
delivers and frees until nothing is left to do now, and sets it for the next time. So a shard that lost its
process goes on by itself.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from isal import isal_zlib
from msgspec import Struct, json

from penstock.base.errors import Conflict, NotFound, Overloaded, PenstockError
from penstock.base.ids import next_ulid
from penstock.base.limits import (
    FREE_SLICE_BYTES,
    FREE_SLICE_ROWS,
    SINK_RETRY_BASE_MS,
    SINK_RETRY_MAX_MS,
)
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.pipelines.environment import PipelineEnv
from penstock.pipelines.file_content import file_chunks
from penstock.pipelines.layout import Compression, file_key
from penstock.pipelines.rolling import Pending, Rolling, backoff_ms, due_at_ms, hour_end_ms

log = structlog.get_logger("penstock.pipelines")

#: A clock that goes back by less is waited for; by more, it was wrong before.
_CLOCK_BACK_MS_MAX = 1_000
#: Files sealed in one step, which takes a few milliseconds.
_SEALED_PER_STEP_MAX = 50

#: What the broker's plan is too old for.
CODE_PLAN_CHANGED = 1409
CODE_UNKNOWN_PIPELINE = 1000

_TABLES = """
CREATE TABLE IF NOT EXISTS batches (
  sequence INTEGER PRIMARY KEY,
  end_record INTEGER NOT NULL,   -- records of the shard up to and with this row
  end_byte INTEGER NOT NULL,     -- bytes likewise
  received_ms INTEGER NOT NULL,  -- never less than in the row before, if that is not in a file yet
  crc32 INTEGER NOT NULL,
  body BLOB NOT NULL             -- NDJSON
) STRICT;
CREATE TABLE IF NOT EXISTS files (
  ulid TEXT PRIMARY KEY,
  first_sequence INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  records INTEGER NOT NULL,
  bytes INTEGER NOT NULL,        -- before compression
  bucket TEXT NOT NULL,
  key TEXT NOT NULL,
  compression TEXT NOT NULL,
  delivered INTEGER NOT NULL     -- 1 from delivery until the rows are freed
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  config TEXT,                   -- ShardConfig
  closed INTEGER NOT NULL,
  freed_sequence INTEGER NOT NULL, freed_record INTEGER NOT NULL, freed_byte INTEGER NOT NULL,
  last_ulid TEXT
) STRICT;
INSERT INTO state VALUES (0, NULL, 0, 0, 0, 0, NULL) ON CONFLICT DO NOTHING;
"""


class ShardConfig(Struct, frozen=True):
    """What a shard needs to know of its pipeline. `version` is that of the settings it was made from."""

    pipeline: str
    version: int
    rolling: Rolling
    bucket: str
    prefix: str
    compression: Compression


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two rows: the last row before it, and the totals up to there."""

    sequence: int
    record: int
    byte: int


@dataclass(frozen=True, slots=True)
class SealedFile:
    ulid: str
    first: int
    last: int
    records: int
    bytes: int
    bucket: str
    key: str
    compression: Compression
    delivered: bool


class StreamShard(DurableObject[PipelineEnv]):
    def __init__(self, ctx: Context, env: PipelineEnv) -> None:
        super().__init__(ctx, env)
        self._sql = SystemSql(system_storage(ctx.storage))
        self._sql.exec(_TABLES)
        config, closed, *freed, self._last_ulid = self._sql.exec("SELECT * FROM state").one()[1:]
        self._config: ShardConfig | None = json.decode(config, type=ShardConfig) if config else None
        self._closed = bool(closed)
        self._freed = Mark(*freed)
        self._sealed = self._mark_after(self._last_sequence_of("files", "last_sequence"))
        self._end = self._mark_after(self._last_sequence_of("batches", "sequence"))
        self._last_received_ms = self._received_ms(self._end.sequence) or 0
        self._first_pending_ms = self._received_ms(self._sealed.sequence + 1)
        self._alarm_ms = ctx.storage.get_alarm()
        self._working = False
        self._clock_was_ahead = False
        self._failures = 0
        self._retry_ms: int | None = None
        self._note_backlog()

    def _last_sequence_of(self, table: str, column: str) -> int:
        last: int | None = self._sql.exec(f"SELECT max({column}) FROM {table}").one()[0]
        return self._freed.sequence if last is None else last

    def _mark_after(self, sequence: int) -> Mark:
        row = self._sql.exec(
            "SELECT sequence, end_record, end_byte FROM batches WHERE sequence = ?1", sequence
        ).first()
        return Mark(*row) if row else self._freed

    def _received_ms(self, sequence: int) -> int | None:
        row = self._sql.exec("SELECT received_ms FROM batches WHERE sequence = ?1", sequence).first()
        return row[0] if row else None

    # -- in -----------------------------------------------------------------------------------------------

    def append(self, body: bytes, records: int, version: int) -> None:
        """Store a request's `records` (NDJSON in `body`). `version` is that of the caller's plan.

        Raises `Conflict` when the plan is outdated, `NotFound` when the pipeline is deleted, `Overloaded` when
        too much awaits delivery, `StorageFull`.
        """
        config = self._config
        if config is None or self._closed:
            raise NotFound("This shard takes no records.", code=CODE_UNKNOWN_PIPELINE)
        if version < config.version:
            raise Conflict("The pipeline's settings have changed.", code=CODE_PLAN_CHANGED)
        self._refuse_if_full(len(body))
        now_ms = self._last_received_ms = self._now_ms()
        end = Mark(self._end.sequence + 1, self._end.record + records, self._end.byte + len(body))
        self._sql.exec(
            "INSERT INTO batches VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            end.sequence,
            end.record,
            end.byte,
            now_ms,
            isal_zlib.crc32(body),
            body,
        )
        self._end = end
        if self._first_pending_ms is None:
            self._first_pending_ms = now_ms
        self._note_backlog()
        if not self._working and self._retry_ms is None:
            due_ms = self._due_ms(config)
            if self._alarm_ms is None or due_ms < self._alarm_ms:
                self._set_alarm(due_ms)

    def _now_ms(self) -> int:
        """The time that a row gets. Rows that wait together have rising times, so when the clock goes back far,
        what is there is sealed at once, and rows have the clock's time again when that is done."""
        now_ms = self.ctx.clock.now_ms()
        if self._last_received_ms - now_ms > _CLOCK_BACK_MS_MAX:
            self._clock_was_ahead = True
        return max(now_ms, self._last_received_ms)

    def _due_ms(self, config: ShardConfig) -> int:
        now_ms = self.ctx.clock.now_ms()
        if self._closed or self._clock_was_ahead:
            return now_ms
        return due_at_ms(self._pending(), config.rolling, now_ms)

    def _refuse_if_full(self, size: int) -> None:
        limit = self.env.limits.undelivered_bytes_max
        waiting = self._end.byte - self._freed.byte
        if waiting + size > limit:
            raise Overloaded(
                f"{waiting} bytes await delivery to the bucket; undelivered_bytes_max is {limit}. Nothing of this "
                "request was stored; send it again later.",
                retry_after_s=5,
            )

    def _pending(self) -> Pending:
        assert self._first_pending_ms is not None
        return Pending(
            self._first_pending_ms, self._end.record - self._sealed.record, self._end.byte - self._sealed.byte
        )

    def _set_alarm(self, at_ms: int) -> None:
        self._alarm_ms = at_ms
        self.ctx.storage.set_alarm(at_ms)

    # -- control ------------------------------------------------------------------------------------------

    def configure(self, config: ShardConfig) -> None:
        """Take new settings. They hold for what is not sealed yet."""
        if self._closed or (self._config is not None and config.version < self._config.version):
            return
        self._config = config
        self._sql.exec("UPDATE state SET config = ?1", json.encode(config).decode())
        if not self._working:
            self._set_next_alarm()

    def close(self) -> None:
        """Take no more records; deliver what is there, at once."""
        if not self._closed:
            self._closed = True
            self._sql.exec("UPDATE state SET closed = 1")
            if not self._working:
                self._set_next_alarm()

    # -- out ----------------------------------------------------------------------------------------------

    async def alarm(self, info: AlarmInfo) -> None:
        self._working = True
        try:
            await self._deliver_what_is_due()
        finally:
            self._working = False
        self._set_next_alarm()

    async def _deliver_what_is_due(self) -> None:
        if self._retry_ms is not None and self.ctx.clock.now_ms() < self._retry_ms:
            return
        self._retry_ms = None
        while True:
            file = None
            try:
                self._seal_what_is_due()
                file = self._oldest_file()
                if file is None:
                    return
                if not file.delivered:
                    await self._deliver(file)
                await self._free(file)
            except Exception as error:  # noqa: BLE001 - a bug of ours must not end deliveries either
                self._note_failure(file, error)
                return

    def _set_next_alarm(self) -> None:
        """Wake when there is something to do: a retry, or a file that becomes due. A retry comes first: nothing can
        be done before it."""
        at_ms = self._retry_ms
        if at_ms is None and self._first_pending_ms is not None and self._config is not None:
            at_ms = self._due_ms(self._config)
        self._alarm_ms = at_ms
        if at_ms is not None:
            self.ctx.storage.set_alarm(at_ms)

    def _seal_what_is_due(self) -> None:
        """Not all at once if that is very much: whoever delivers comes back for the rest."""
        config = self._config
        for _ in range(_SEALED_PER_STEP_MAX):
            if config is None or self._first_pending_ms is None:
                break
            now_ms = self.ctx.clock.now_ms()
            if self._due_ms(config) > now_ms:
                return
            self._seal(config, now_ms)
        if self._first_pending_ms is None and self._clock_was_ahead:
            self._clock_was_ahead = False
            self._last_received_ms = 0

    def _seal(self, config: ShardConfig, now_ms: int) -> None:
        """Fix the next file: range, name and key, in the transaction of this step."""
        assert self._first_pending_ms is not None
        start = self._sealed
        end = self._mark_after(self._last_row_of_next_file(config.rolling))
        ulid = self._last_ulid = next_ulid(self._last_ulid, now_ms, self.ctx.rng)
        self._sql.exec(
            "INSERT INTO files VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
            ulid,
            start.sequence + 1,
            end.sequence,
            end.record - start.record,
            end.byte - start.byte,
            config.bucket,
            file_key(config.prefix, self._first_pending_ms, ulid, config.compression),
            config.compression,
        )
        self._sql.exec("UPDATE state SET last_ulid = ?1", ulid)
        self._sealed = end
        self._first_pending_ms = self._received_ms(end.sequence + 1)

    def _last_row_of_next_file(self, rolling: Rolling) -> int:
        """The first pending row with which the file is full, or the last one of its hour. Totals and times only
        grow from row to row, so each is found by bisection, at some twenty look-ups for a million rows."""
        assert self._first_pending_ms is not None
        first, last = self._sealed.sequence + 1, self._end.sequence

        def first_row(column: str, at_least: int) -> int:
            sql = f"SELECT {column} FROM batches WHERE sequence = ?1"
            rows = range(first, last + 1)
            return first + bisect_left(rows, at_least, key=lambda row: self._sql.exec(sql, row).one()[0])

        return min(
            first_row("end_byte", self._sealed.byte + rolling.bytes_max),
            first_row("end_record", self._sealed.record + rolling.records_max),
            first_row("received_ms", hour_end_ms(self._first_pending_ms)) - 1,
            last,
        )

    def _oldest_file(self) -> SealedFile | None:
        row: tuple[Any, ...] | None = self._sql.exec("SELECT * FROM files ORDER BY ulid LIMIT 1").first()
        return SealedFile(*row) if row else None

    async def _deliver(self, file: SealedFile) -> None:
        """Make and write the file, then record it. The upload waits at the output gate for the seal."""
        chunks = partial(
            file_chunks, system_storage(self.ctx.storage).reader, file.first, file.last, file.compression
        )
        size = await self.ctx.buckets.put(file.bucket, file.key, chunks)
        self._sql.exec("UPDATE files SET delivered = 1 WHERE ulid = ?1", file.ulid)
        self._failures = 0
        self.env.statistics.files += 1
        self.env.statistics.file_bytes += size
        self.env.statistics.delivered_records += file.records
        log.info("file_delivered", bucket=file.bucket, key=file.key, records=file.records, bytes=size)

    async def _free(self, file: SealedFile) -> None:
        """Give back the rows of a delivered file, in slices between which other calls run."""
        rows_per_slice = _rows_per_slice(file)
        while self._freed.sequence < file.last:
            # Durable before it goes on: it also keeps the freed rows of one transaction few.
            await self.ctx.storage.sync()
            freed = self._mark_after(min(self._freed.sequence + rows_per_slice, file.last))
            self._sql.exec("DELETE FROM batches WHERE sequence <= ?1", freed.sequence)
            self._sql.exec(
                "UPDATE state SET freed_sequence = ?1, freed_record = ?2, freed_byte = ?3",
                freed.sequence,
                freed.record,
                freed.byte,
            )
            self._freed = freed
            self._note_backlog()
        self._sql.exec("DELETE FROM files WHERE ulid = ?1", file.ulid)
        await system_storage(self.ctx.storage).give_back_space()

    def _note_failure(self, file: SealedFile | None, error: Exception) -> None:
        """A file could not be sealed or delivered. It is tried for ever: no number of failures makes its records
        worthless, and meanwhile the budget of undelivered bytes stops what comes in."""
        self._failures += 1
        wait_ms = backoff_ms(self._failures, SINK_RETRY_BASE_MS, SINK_RETRY_MAX_MS, self.ctx.rng.random())
        self._retry_ms = self.ctx.clock.now_ms() + wait_ms
        self.env.statistics.delivery_failures += 1
        log.warning(
            "file_not_delivered",
            bucket=file.bucket if file else None,
            key=file.key if file else None,
            failures=self._failures,
            retry_in_ms=wait_ms,
            error=str(error),
            exc_info=not isinstance(error, PenstockError),
        )

    def _note_backlog(self) -> None:
        self.env.statistics.undelivered_bytes[self.ctx.name] = self._end.byte - self._freed.byte


def _rows_per_slice(file: SealedFile) -> int:
    rows = file.last - file.first + 1
    average_bytes = max(1, file.bytes // rows)
    return max(1, min(FREE_SLICE_ROWS, FREE_SLICE_BYTES // average_bytes))
