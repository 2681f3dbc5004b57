"""The durable buffer of a pipeline, and the way of its records into files.

A request's records are one row (`buffer.py`). From left to right a shard's rows are:

    freed          | delivered, being freed | sealed              | pending           | next row
    gone             a file holds them        a file is promised    waiting for a file

**Sealing** is one transaction: it fixes a segment's range of rows, its ULID and, unless its records choose their
file, the key, before the first byte of the file is made (`ledger.py`). Making and writing the file is then
repeatable, and gives the same bytes under the same key, until a second transaction records that it was delivered.
Whatever crash comes between, each record lands in exactly one file.

The alarm is the only driver: whoever finds that a file is due, or may become due, sets it; `alarm()` seals,
delivers and frees until nothing is left to do now, and sets it for the next time. So a shard that lost its
process goes on by itself.

A shard belongs to one generation of its pipeline, with one set of settings. When it is closed it delivers what it
has at once and tells the coordinator when its last byte is in the bucket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial

import structlog
from msgspec import Struct, json
from msgspec.structs import replace

from penstock.base.errors import Conflict, Overloaded, PenstockError
from penstock.base.ids import next_ulid
from penstock.base.limits import FREE_SLICE_BYTES, FREE_SLICE_ROWS
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.pipelines import buffer, ledger
from penstock.pipelines.backpressure import Budgets, Rate, exceeded, retry_after_s
from penstock.pipelines.buffer import Buffer
from penstock.pipelines.counters import PipelineCounters, add_to
from penstock.pipelines.environment import PipelineEnv
from penstock.pipelines.file_content import Digest, file_chunks, read_piece
from penstock.pipelines.layout import file_key
from penstock.pipelines.ledger import Ledger, LedgerFile, LedgerPage, Segment, Standing, State, Totals
from penstock.pipelines.preparation import Recipe, prepare
from penstock.pipelines.rolling import Rolling, due_at_ms
from penstock.pipelines.scaling import LoadMeter
from penstock.pipelines.shard_keys import ShardKeys
from penstock.pipelines.sink_health import HEALTHY, Pause, after_failure
from penstock.pipelines.snapshot import SnapshotHead, SnapshotReader, encode_frame
from penstock.pipelines.tail import Listeners
from penstock.storage.connection import S3Connection

log = structlog.get_logger("penstock.pipelines")

#: A clock that goes back by less is waited for; by more, it was wrong before.
_CLOCK_BACK_MS_MAX = 1_000
#: Files sealed in one step, which takes a few milliseconds.
_SEALED_PER_STEP_MAX = 50

#: What the broker's plan is too old for.
CODE_PLAN_CHANGED = 1409
CODE_UNKNOWN_PIPELINE = 1000

_TABLES = f"""
{buffer.TABLES}
{ledger.TABLES}
CREATE TABLE IF NOT EXISTS state (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  config TEXT,                   -- ShardConfig
  closed INTEGER NOT NULL,
  discarded INTEGER NOT NULL,    -- what is in no file yet is not wanted any more
  drained INTEGER NOT NULL       -- the coordinator knows that the last byte is delivered
) STRICT;
INSERT INTO state VALUES (0, NULL, 0, 0, 0) ON CONFLICT DO NOTHING;
"""


class ShardConfig(Struct, frozen=True):
    """What a shard needs to know of its pipeline. `version` is that of the settings it was made from."""

    pipeline: str
    version: int
    rolling: Rolling
    bucket: str
    s3: S3Connection | None
    recipe: Recipe
    #: Whether the number of shards follows their load, which the coordinator then wants to hear of.
    scales: bool = False
    #: Of the pipeline, for people.
    name: str = ""


class ShardStatus(Struct, frozen=True):
    """A shard as it is. Its backlog is what is in no file yet; times are milliseconds since the Unix epoch."""

    backlog_records: int
    backlog_bytes: int
    #: When the oldest record of the backlog came.
    oldest_ms: int | None
    accepted_requests: int
    accepted_records: int
    accepted_bytes: int
    closed: bool
    drained: bool
    failures: int
    last_error: str
    retry_ms: int | None
    pause: Pause | None
    totals: Totals


class StreamShard(DurableObject[PipelineEnv]):
    def __init__(self, ctx: Context, env: PipelineEnv) -> None:
        super().__init__(ctx, env)
        self._budgets = Budgets(
            env.limits.undelivered_bytes_max,
            env.limits.pipeline_undelivered_bytes_max,
            env.limits.executor_undelivered_bytes_max,
        )
        self._storage = system_storage(ctx.storage)
        self._sql = SystemSql(self._storage)
        self._sql.exec(_TABLES)
        self._keys = ShardKeys(self._sql, ctx.clock)
        config, closed, discarded, drained = self._sql.exec("SELECT * FROM state").one()[1:]
        self._config: ShardConfig | None = json.decode(config, type=ShardConfig) if config else None
        self._closed = bool(closed)
        self._discarded = bool(discarded)
        self._drained = bool(drained)
        self._ledger = Ledger(self._sql)
        self._last_ulid = self._ledger.last_ulid()
        self._buffer = Buffer(self._sql, self._ledger.last_sequence())
        if self._discarded:
            self._buffer.seal(self._buffer.end.sequence)
        self._alarm_ms = ctx.storage.get_alarm()
        self._working = False
        self._clock_was_ahead = False
        self._health = HEALTHY
        self._drain_rate = Rate()
        #: Whether what a crash may have left in the spool is gone.
        self._spool_is_clear = False
        self._meter = LoadMeter(ctx.name, ctx.clock.elapsed_ms())
        self._listeners = Listeners(ctx.rng)
        self._note_backlog()
        self._note_state()

    # -- in -----------------------------------------------------------------------------------------------

    def append(self, body: bytes, records: int, version: int, key: str | None = None) -> int:
        """Store a request's `records` (NDJSON in `body`). `version` is that of the caller's plan. `key` is the ref
        of an idempotency claim: if its records are stored already, nothing more is, whatever the plan. Gives how
        many records are stored.

        Raises `Conflict` when the plan is outdated, `Overloaded` when too much awaits delivery, `StorageFull`.
        """
        if key is not None:
            stored = self._keys.stored(key)
            if stored is not None:
                return stored
        config = self._config
        if self._closed or config is None or version != config.version:
            raise Conflict("The pipeline has changed; get its plan again.", code=CODE_PLAN_CHANGED)
        self._refuse_if_full(len(body))
        self._buffer.append(body, records, self._now_ms())
        if key is not None:
            self._keys.store(key, records)
        self._note_backlog()
        if config.scales and self._meter.add(len(body), self.ctx.clock.elapsed_ms()):
            self.ctx.wait_until(self._tell_load(config))
        if self._listeners:
            self._listeners.offer(body)
        if not self._working and self._health.retry_ms is None:
            due_ms = self._due_ms(config)
            if self._alarm_ms is None or due_ms < self._alarm_ms:
                self._set_alarm(due_ms)
        return records

    def forgo(self, key: str) -> int | None:
        """Never take records under this key, which go elsewhere. If they are here, how many there are."""
        return self._keys.forgo(key)

    def _now_ms(self) -> int:
        """The time that a row gets. Rows that wait together have rising times, so when the clock goes back far,
        what is there is sealed at once, and rows have the clock's time again when that is done."""
        now_ms = self.ctx.clock.now_ms()
        if self._buffer.last_received_ms - now_ms > _CLOCK_BACK_MS_MAX:
            self._clock_was_ahead = True
        return max(now_ms, self._buffer.last_received_ms)

    def _due_ms(self, config: ShardConfig) -> int:
        now_ms = self.ctx.clock.now_ms()
        if self._closed or self._clock_was_ahead:
            return now_ms
        pending = self._buffer.pending
        assert pending is not None
        return due_at_ms(pending, config.rolling, now_ms)

    def _refuse_if_full(self, size: int) -> None:
        assert self._config is not None
        backlog = self.env.statistics.backlog(self._config.pipeline, self._buffer.size_bytes)
        over = exceeded(backlog, self._budgets, size)
        if over is None:
            return
        budget, waiting, over_bytes = over
        wait_ms = (self._health.retry_ms or 0) - self.ctx.clock.now_ms()
        raise Overloaded(
            f"{waiting} bytes await delivery to buckets; {budget} is {getattr(self.env.limits, budget)}. Nothing "
            "of this request was stored; send it again later.",
            retry_after_s=retry_after_s(over_bytes, self._drain_rate, wait_ms),
        )

    def _set_alarm(self, at_ms: int) -> None:
        self._alarm_ms = at_ms
        self.ctx.storage.set_alarm(at_ms)

    # -- control ------------------------------------------------------------------------------------------

    def configure(self, config: ShardConfig) -> None:
        """Take the settings of the shard's generation. A second time they may differ in how the bucket is reached:
        what could not be delivered is tried again at once."""
        if self._drained:
            return
        self._config = config
        self._sql.exec("UPDATE state SET config = ?1", json.encode(config).decode())
        self._health = HEALTHY
        self._note_pause(None)
        self._note_state()
        if not self._working:
            self._set_next_alarm()

    def close(self) -> None:
        """Take no more records; deliver what is there, at once; tell the coordinator when that is done."""
        if not self._closed:
            self._closed = True
            self._sql.exec("UPDATE state SET closed = 1")
            self._listeners.end()
            self._note_state()
            if not self._working:
                self._set_next_alarm()

    def discard(self) -> None:
        """Take no more records and forget those that are in no file yet. (A file that is being uploaded right now
        may still appear.)"""
        if self._discarded:
            return
        self._discarded = self._closed = True
        self._listeners.end()
        self._sql.exec("UPDATE state SET closed = 1, discarded = 1")
        self._ledger.discard_unfinished()
        self._buffer.seal(self._buffer.end.sequence)
        self._health = HEALTHY
        self._note_pause(None)
        self._note_state()
        if not self._working:
            self._set_next_alarm()

    def remove(self) -> None:
        """Forget everything, once all is delivered."""
        self.env.statistics.forget(self.ctx.name)
        if self._config is not None:
            self.env.statistics.by_pipeline.forget(self._config.pipeline)
        self.ctx.storage.delete_all()
        # As one that was never configured: who still has its name is told to get the plan again.
        self._sql.exec(_TABLES)
        self._keys = ShardKeys(self._sql, self.ctx.clock)
        self._config = None

    def status(self) -> ShardStatus:
        buffer, health = self._buffer, self._health
        return ShardStatus(
            backlog_records=buffer.end.record - buffer.freed.record,
            backlog_bytes=buffer.size_bytes,
            oldest_ms=buffer.oldest_ms,
            accepted_requests=buffer.end.sequence,
            accepted_records=buffer.end.record,
            accepted_bytes=buffer.end.byte,
            closed=self._closed,
            drained=self._drained,
            failures=health.failures,
            last_error=health.last_error,
            retry_ms=health.retry_ms,
            pause=health.pause,
            totals=self._ledger.totals(),
        )

    def tail(self, sample: float) -> AsyncIterator[bytes]:
        """The share `sample` of the records that are stored from now on, as `pipelines/tail.py` says, until the
        shard takes no more. They are seen when they are durable. Raises `Overloaded`."""
        listener = self._listeners.open(sample)
        if self._closed or self._config is None:
            listener.end()
        return listener

    async def snapshot(self, with_rows: bool) -> AsyncIterator[bytes]:
        """Where the shard's records are now, as `pipelines/snapshot.py` says; `with_rows`: also those in no
        file."""
        config = self._config
        if config is None:
            return
        # What was stored must be durable: it is read through a second connection, which sees durable rows alone.
        await self.ctx.storage.sync()
        recipe, first_record = config.recipe, self._ledger.totals().ledger_from_record
        own_time = recipe.partition_time is not None
        yield encode_frame(SnapshotHead(config.bucket, config.s3, recipe.layout, own_time, first_record))
        frames = SnapshotReader(self._storage.reader, recipe.layout, with_rows)
        run = partial(self.env.offload.run, "bulk")
        try:
            while (frame := await run(frames.next)) is not None:
                yield encode_frame(frame)
        finally:
            await run(frames.close)

    def ledger(self, after: str, limit: int) -> LedgerPage:
        """Up to `limit` segments with a ULID above `after`, with their files."""
        page = self._ledger.page(after, limit)
        from_record = self._ledger.totals().ledger_from_record
        return replace(page, from_record=from_record, accepted_records=self._buffer.end.record)

    def standings(self, files: list[tuple[str, str]]) -> list[Standing]:
        """Whether the ledger knows these files, each a segment's ULID and a key."""
        return [self._ledger.standing(segment, key) for segment, key in files]

    def dead_files(self, since_ms: int, until_ms: int, after: str, limit: int) -> list[LedgerFile]:
        """Up to `limit` dead-letter files that are in the bucket and were not all sent again, of segments with a
        ULID above `after` that were sealed from `since_ms` to before `until_ms`."""
        return list(self._ledger.dead_files(since_ms, until_ms, after, limit))

    def replay_begun(self, segment: str, key: str, reasons: list[str]) -> dict[str, int]:
        """A dead-letter file's records of these reasons are about to be sent again. Gives, for each reason, when
        that first began, or `REPLAYED`. Raises `NotFound` when the ledger has forgotten the file."""
        return self._ledger.replay_begun(segment, key, reasons, self.ctx.clock.now_ms())

    def replayed(self, segment: str, key: str, reasons: list[str]) -> None:
        """They were sent. Harmless to say twice."""
        self._ledger.replayed(segment, key, reasons, self.ctx.clock.now_ms())

    # -- out ----------------------------------------------------------------------------------------------

    async def alarm(self, info: AlarmInfo) -> None:
        self._working = True
        try:
            await self._deliver_what_is_due()
        finally:
            self._working = False
        self._set_next_alarm()

    async def _deliver_what_is_due(self) -> None:
        retry_ms = self._health.retry_ms
        if retry_ms is not None and self.ctx.clock.now_ms() < retry_ms:
            return
        while True:
            segment = None
            try:
                if not self._spool_is_clear:
                    await self._clear_spool()
                self._seal_what_is_due()
                segment = self._ledger.oldest_unfinished()
                if segment is None:
                    break
                if segment.state < State.DELIVERED:
                    await self._deliver(segment)
                await self._free_rows(segment.last, segment.bytes)
                self._ledger.freed(segment)
                await self._storage.give_back_space()
            except Exception as error:  # noqa: BLE001 - a bug of ours must not end deliveries either
                self._note_failure(segment, error)
                return
        # Nothing is left to be tried again: a time for it that is over would set the alarm for ever.
        self._health = HEALTHY
        self._note_pause(None)
        if self._discarded:
            await self._free_rows(self._buffer.end.sequence, self._buffer.size_bytes)
        if self._is_empty_for_good:
            await self._report_drained()

    @property
    def _is_empty_for_good(self) -> bool:
        return self._closed and not self._drained and self._buffer.first_pending_ms is None

    def _set_next_alarm(self) -> None:
        """Wake when there is something to do: a retry, a file that becomes due, a word to the coordinator. A retry
        comes first: nothing can be done before it."""
        at_ms = self._health.retry_ms
        if at_ms is None and self._buffer.first_pending_ms is not None and self._config is not None:
            at_ms = self._due_ms(self._config)
        if at_ms is None and (self._is_empty_for_good or self._ledger.oldest_unfinished() is not None):
            at_ms = self.ctx.clock.now_ms()
        self._alarm_ms = at_ms
        if at_ms is not None:
            self.ctx.storage.set_alarm(at_ms)

    def _seal_what_is_due(self) -> None:
        """Not all at once if that is very much: whoever delivers comes back for the rest."""
        config = self._config
        for _ in range(_SEALED_PER_STEP_MAX):
            if config is None or self._buffer.first_pending_ms is None:
                break
            now_ms = self.ctx.clock.now_ms()
            if self._due_ms(config) > now_ms:
                return
            self._seal(config, now_ms)
        if self._buffer.first_pending_ms is None and self._clock_was_ahead:
            self._clock_was_ahead = False
            self._buffer.last_received_ms = 0

    def _seal(self, config: ShardConfig, now_ms: int) -> None:
        """Fix the next segment and, if that can be known, its file, in the transaction of this step."""
        buffer, recipe = self._buffer, config.recipe
        assert buffer.first_pending_ms is not None
        start = buffer.sealed
        end = buffer.mark_after(buffer.last_row_of_next_file(config.rolling))
        ulid = self._last_ulid = next_ulid(self._last_ulid, now_ms, self.ctx.rng)
        segment = Segment(
            ulid=ulid,
            state=State.SEALED if recipe.is_needed else State.PREPARED,
            first=start.sequence + 1,
            last=end.sequence,
            first_record=start.record + 1,
            records=end.record - start.record,
            bytes=end.byte - start.byte,
            received_ms=buffer.first_pending_ms,
            sealed_ms=now_ms,
            delivered_ms=None,
        )
        files = []
        if not recipe.is_needed:
            key = file_key(recipe.layout, segment.received_ms, ulid)
            files = [LedgerFile(ulid, key, "data", segment.records, segment.bytes)]
        self._ledger.add(segment, files)
        buffer.seal(end.sequence)

    async def _deliver(self, segment: Segment) -> None:
        """Make and write the segment's files, then record it. Uploads wait at the output gate."""
        config = self._config
        assert config is not None
        if segment.state is State.SEALED:
            await self._prepare(segment, config)
        store = self.ctx.buckets.at(config.s3)
        files = self._ledger.files_of(segment.ulid)
        for file in files:
            if file.delivered or self._discarded:
                continue
            digest = Digest(file.sha256)
            chunks = partial(_digested, digest, self._content(config, segment, file))
            size_bytes = await store.put(config.bucket, file.key, chunks)
            self._ledger.delivered(file, size_bytes, digest.hex)
            self._note_delivered(config, file, size_bytes)
        self._ledger.all_delivered(segment, self.ctx.clock.now_ms())
        self._health = HEALTHY
        self._note_pause(None)
        spooled = [file.spool for file in files if file.spool is not None]
        if spooled:
            await self.ctx.storage.sync()  # only then are they needed no more
            await self.env.offload.run("bulk", partial(self.env.spool.remove, spooled))

    def _content(self, config: ShardConfig, segment: Segment, file: LedgerFile) -> Callable[[], Iterable[bytes]]:
        if file.spool is not None:
            assert file.size_bytes is not None
            return partial(self.env.spool.chunks, file.spool, file.size_bytes)
        compression = config.recipe.layout.compression
        return partial(file_chunks, self._storage.reader, segment.first, segment.last, compression)

    async def _prepare(self, segment: Segment, config: ShardConfig) -> None:
        # The rows must be durable: they are read through a second connection, which sees durable ones alone.
        await self.ctx.storage.sync()
        files = await prepare(
            segment,
            self.ctx.name,
            config.recipe,
            self._pieces(segment),
            self.env.transforms,
            self.env.spool,
            partial(self.env.offload.run, "bulk"),
        )
        if not self._discarded:  # meanwhile, and with it the segment
            self._ledger.prepared(segment, files)

    async def _pieces(self, segment: Segment) -> AsyncIterator[bytes]:
        """The segment's NDJSON, in whole rows."""
        first = segment.first
        while first <= segment.last:
            read = partial(read_piece, self._storage.reader, first, segment.last)
            ndjson, first = await self.env.offload.run("bulk", read)
            yield ndjson

    async def _free_rows(self, last: int, size_bytes: int) -> None:
        """Give back the rows up to `last`, in slices between which other calls run."""
        buffer = self._buffer
        rows_per_slice = _rows_per_slice(last - buffer.freed.sequence, size_bytes)
        while buffer.freed.sequence < last:
            # Durable before it goes on: it also keeps the freed rows of one transaction few.
            await self.ctx.storage.sync()
            freed_byte = buffer.freed.byte
            buffer.free(min(buffer.freed.sequence + rows_per_slice, last))
            now_ms = self.ctx.clock.elapsed_ms()
            self._drain_rate = self._drain_rate.after(buffer.freed.byte - freed_byte, now_ms)
            self._note_backlog()

    async def _tell_load(self, config: ShardConfig) -> None:
        """Tell the coordinator how busy the shard is. Nothing depends on it: a lost word is followed by the
        next."""
        backlog = self._buffer.sealed.byte - self._buffer.freed.byte
        load = self._meter.read(backlog, self.ctx.clock.elapsed_ms())
        try:
            await self.ctx.namespace("Coordinator").get_by_name(config.pipeline).heartbeat(load)
        except PenstockError as error:
            log.info("heartbeat_not_heard", shard=self.ctx.name, error=error.message)

    async def _clear_spool(self) -> None:
        """Remove the files that nobody would deliver any more: those of an attempt that was cut short, those that
        were in the bucket already, those that were discarded."""
        config = self._config
        if config is not None and config.recipe.is_needed:
            await self.ctx.storage.sync()  # what is delivered must stay so before its file goes
            clear = partial(self.env.spool.clear, self.ctx.name, self._ledger.spooled())
            await self.env.offload.run("bulk", clear)
        self._spool_is_clear = True

    async def _report_drained(self) -> None:
        """Tell the coordinator, until it has heard."""
        assert self._config is not None
        coordinator = self.ctx.namespace("Coordinator").get_by_name(self._config.pipeline)
        try:
            await self._clear_spool()
            await coordinator.drained(self.ctx.name)
        except PenstockError as error:
            self._health = after_failure(HEALTHY, error, self.ctx.clock.now_ms(), self.ctx.rng.random())
            log.info("drained_not_reported", shard=self.ctx.name, error=error.message)
            return
        if not self._drained:  # it may have been removed meanwhile
            self._drained = True
            self._sql.exec("UPDATE state SET drained = 1")
            self._note_state()

    # -- what is noted ------------------------------------------------------------------------------------

    def _note_failure(self, segment: Segment | None, error: Exception) -> None:
        """Something could not be sealed or delivered. Meanwhile the budgets stop what comes in."""
        now_ms = self.ctx.clock.now_ms()
        self._health = after_failure(self._health, error, now_ms, self.ctx.rng.random())
        self._note_pause(self._health.pause)
        self.env.statistics.delivery_failures += 1
        config, retry_ms = self._config, self._health.retry_ms
        if config is not None:
            self._counters(config).delivery_failures += 1
        say = log.error if self._health.pause else log.warning
        say(
            "pipeline_paused" if self._health.pause else "file_not_delivered",
            pipeline=config.pipeline if config else None,
            bucket=config.bucket if config else None,
            segment=segment.ulid if segment else None,
            failures=self._health.failures,
            retry_in_ms=retry_ms - now_ms if retry_ms is not None else None,
            error=str(error),
            exc_info=not isinstance(error, PenstockError),
        )

    def _note_delivered(self, config: ShardConfig, file: LedgerFile, size_bytes: int) -> None:
        statistics, counters = self.env.statistics, self._counters(config)
        statistics.files += 1
        statistics.file_bytes += size_bytes
        counters.files += 1
        counters.file_bytes += size_bytes
        if file.kind == "dead":
            statistics.dead_records += file.records
            statistics.dead_reasons.update(file.reasons)
            for reason, count in file.reasons.items():
                add_to(counters.dead, reason, count)
        else:
            statistics.delivered_records += file.records
            counters.delivered_records += file.records
        log.info(
            "file_delivered",
            bucket=config.bucket,
            key=file.key,
            records=file.records,
            bytes=size_bytes,
            kind=file.kind,
        )

    def _note_pause(self, pause: Pause | None) -> None:
        if self._config is not None:
            self.env.statistics.note_pause(self._config.pipeline, self.ctx.name, pause is not None)

    def _note_state(self) -> None:
        if self._config is not None:
            state = "drained" if self._drained else "draining" if self._closed else "open"
            self.env.statistics.shard_states[self.ctx.name] = state
            self._counters(self._config)  # so that its gauges have a name

    def _counters(self, config: ShardConfig) -> PipelineCounters:
        return self.env.statistics.by_pipeline.of(config.pipeline, config.name)

    def _on_discard(self) -> None:
        # Noted again when it starts from what is durable: at the latest when its alarm fires, if anything waits.
        self.env.statistics.forget(self.ctx.name)

    def _note_backlog(self) -> None:
        if self._config is not None:
            buffer = self._buffer
            self.env.statistics.note_backlog(
                self._config.pipeline, self.ctx.name, buffer.size_bytes, buffer.oldest_ms
            )


def _digested(digest: Digest, content: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    return digest.of(content())


def _rows_per_slice(rows: int, size_bytes: int) -> int:
    average_bytes = max(1, size_bytes // max(1, rows))
    return max(1, min(FREE_SLICE_ROWS, FREE_SLICE_BYTES // average_bytes))
