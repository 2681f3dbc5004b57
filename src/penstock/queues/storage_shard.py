"""Some of a queue's messages, and what became of each for every consumer.

A message is stored once (`messages.py`); who has it, or had it, is kept apart for each consumer
(`deliveries.py`). When no consumer needs it any more, its row goes.

Who wants messages waits in `lease()`; whoever stores some wakes the first that waits, which wakes the next when
there is more. What has to happen while nobody calls, the alarm sees to: leases that end, retention, dead letters
that are to be moved, purged rows that are to go, and consumer shards that must be told that there is work. So a
shard that lost its process goes on by itself.

Dead letters are moved by the shard: they stay here until the dead-letter queue has them, which recognises one
that comes again by its id.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

import structlog
from msgspec import Struct, json

from penstock.base.errors import Conflict, NotFound, Overloaded, PenstockError
from penstock.base.limits import (
    IDEMPOTENCY_KEY_MS,
    QUEUE_BATCH_MESSAGES_MAX,
    QUEUE_DEAD_BATCH,
    QUEUE_DEAD_RETRY_MS_MAX,
    QUEUE_MOVED_WINDOW_MS,
    QUEUE_RING_MS,
    QUEUE_SLICE_MESSAGES,
    QUEUE_TICK_MS,
    QUEUE_WAIT_MS_MAX,
    QUEUE_WAITERS_MAX,
)
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.queues import deliveries, messages
from penstock.queues.dead_letters import as_dead_letter
from penstock.queues.deliveries import Deliveries, HeldLease, Settled
from penstock.queues.environment import QueueCounters, QueueEnv
from penstock.queues.load import LoadMeter
from penstock.queues.message import NewMessage, decode_new, encode_messages, encode_new
from penstock.queues.messages import Messages
from penstock.queues.recognised import Recognised
from penstock.queues.registry import QUEUE_REGISTRY
from penstock.queues.settlement import MessageRef, Settlement
from penstock.queues.shard_map import ShardConfig, ShardMap
from penstock.queues.spans import Span, without

log = structlog.get_logger("penstock.queues")

#: The broker's shard map is too old.
CODE_MAP_CHANGED = 1509
CODE_BACKLOG_FULL = 10251

_TABLES = f"""
{messages.TABLES}
{deliveries.TABLES}
CREATE TABLE IF NOT EXISTS state (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  config TEXT,                   -- ShardConfig
  purged_to INTEGER NOT NULL,    -- messages up to this one are purged, unless they are leased
  purging INTEGER NOT NULL,      -- some of them have yet to be deleted
  sweeping INTEGER NOT NULL,     -- a consumer was removed: what it alone needed has yet to be deleted
  drained INTEGER NOT NULL       -- the coordinator knows that the shard is closed and empty
) STRICT;
INSERT INTO state VALUES (0, NULL, 0, 0, 0, 0) ON CONFLICT DO NOTHING;
"""


class Appended(Struct, frozen=True):
    """How many messages were stored, and the shard's backlog after that."""

    stored: int
    backlog_messages: int
    backlog_bytes: int
    oldest_ms: int | None


class Backlog(Struct, frozen=True):
    """Messages that are not done with, the bytes of their bodies, and when the oldest was sent."""

    messages: int
    bytes: int
    oldest_ms: int | None


class Lease(Struct, frozen=True):
    """Messages (`encode_messages`) that the caller has until `deadline_ms`, wall time. None: `count` is 0."""

    lease: int
    deadline_ms: int
    messages: bytes
    count: int
    backlog_messages: int


class ConsumerStatus(Struct, frozen=True):
    """`fresh`: messages never delivered. `waiting_calls`: those who wait for messages."""

    id: str
    fresh: int
    leases: int
    waiting_calls: int


class StorageStatus(Struct, frozen=True):
    backlog: Backlog
    open: bool
    drained: bool
    purging: bool
    consumers: list[ConsumerStatus]


class StorageShard(DurableObject[QueueEnv]):
    def __init__(self, ctx: Context, env: QueueEnv) -> None:
        super().__init__(ctx, env)
        self._storage = system_storage(ctx.storage)
        self._sql = SystemSql(self._storage)
        self._meter = LoadMeter(ctx.name, ctx.clock.elapsed_ms())
        #: Those who wait in `lease`, by consumer.
        self._waiters: dict[str, deque[asyncio.Future[None]]] = {}
        #: When consumer shards were last told that there is work, of the clock that never jumps.
        self._rung_ms: dict[str, int] = {}
        self._dead_failures = 0
        self._dead_retry_ms = 0
        self._working = False
        self._start()

    def _start(self) -> None:
        self._sql.exec(_TABLES)
        config, self._purged_to, purging, sweeping, drained = self._sql.exec("SELECT * FROM state").one()[1:]
        self._config: ShardConfig | None = json.decode(config, type=ShardConfig) if config else None
        self._purging, self._sweeping, self._drained = bool(purging), bool(sweeping), bool(drained)
        self._messages = Messages(self._sql)
        self._recognised = Recognised(self._sql)
        self._consumers: dict[str, Deliveries] = {}
        self._alarm_ms = self.ctx.storage.get_alarm()
        #: All messages up to this one that had no delay have been looked at for their retention.
        self._expired_to = 0
        #: When the oldest message was sent; None: look.
        self._oldest_ms: int | None = None
        if self._config is not None:
            self._messages.uid = self._config.uid
            numbers: dict[str, int] = dict(self._sql.exec("SELECT id, number FROM consumers").to_list())
            for consumer in self._config.map.consumers:
                if consumer.id in numbers:
                    self._open_consumer(consumer.id, numbers[consumer.id])
        self._note_backlog()

    def _open_consumer(self, id: str, number: int) -> None:
        settings = next(c.settings for c in self._map.consumers if c.id == id)
        opened = Deliveries(
            self._sql,
            self._messages,
            number,
            id,
            settings,
            now_ms=self.ctx.clock.now_ms(),
            elapsed_ms=self.ctx.clock.elapsed_ms(),
        )
        opened.purged_to = self._purged_to
        self._consumers[id] = opened

    @property
    def _map(self) -> ShardMap:
        if self._config is None:
            raise Conflict("The queue has changed; get its shard map again.", code=CODE_MAP_CHANGED)
        return self._config.map

    @property
    def _open(self) -> bool:
        config = self._config
        return config is not None and any(s.uid == config.uid and s.open for s in config.map.shards)

    @property
    def _counters(self) -> QueueCounters:
        return self.env.statistics.of(self._map.queue_id)

    # -- in -----------------------------------------------------------------------------------------------

    def append(self, messages: bytes, version: int, key: str = "", fingerprint: bytes = b"") -> Appended:
        """Store messages (`encode_new`). `version` is that of the caller's map, for the log alone. `key`: the
        Idempotency-Key of their request, whose content has this fingerprint; it is stored once.

        Raises `Conflict` when this shard takes none (any more), `Overloaded` when it holds too much,
        `Unprocessable` for a key that was used for something else, `StorageFull`."""
        config = self._config
        if config is None or not self._open:
            raise Conflict("The queue has changed; get its shard map again.", code=CODE_MAP_CHANGED)
        now_ms = self.ctx.clock.now_ms()
        if key and (stored := self._recognised.request(key, fingerprint, now_ms)) is not None:
            self._counters.deduplicated += stored
            return self._appended(stored)
        batch = decode_new(messages)
        self._refuse_if_full(config, len(messages))
        counters = self._counters
        fresh = [message for message in batch if not message.dedup_id or self._is_new(message, now_ms)]
        counters.deduplicated += len(batch) - len(fresh)
        if fresh:
            self._store(fresh, len(messages), now_ms)
        if key:
            self._recognised.note_request(key, fingerprint, len(fresh), now_ms, IDEMPOTENCY_KEY_MS)
        return self._appended(len(fresh))

    def _is_new(self, message: NewMessage, now_ms: int) -> bool:
        # Dead letters and what is redriven must be recognised whatever the queue is set to.
        moved = message.extra is not None and message.extra.source in ("dead_letter", "redrive")
        window_ms = QUEUE_MOVED_WINDOW_MS if moved else self._map.settings.dedup_window_s * 1000
        return window_ms <= 0 or self._recognised.is_new(message.dedup_id, now_ms, window_ms)

    def _store(self, batch: list[NewMessage], size: int, now_ms: int) -> None:
        counters, settings = self._counters, self._map.settings
        delayed = self._messages.append(batch, settings.delivery_delay_s * 1000, now_ms)
        counters.sent += len(batch)
        counters.sent_bytes += size
        if self._messages.count == len(batch):
            self._oldest_ms = None
        self._note_backlog()
        self._set_alarm(now_ms + settings.message_retention_period_s * 1000 + 1)
        for consumer in self._consumers.values():
            consumer.arrived(len(batch), delayed, now_ms)
            self._serve(consumer)
        if self._meter.add(len(batch), size, self.ctx.clock.elapsed_ms()):
            self.ctx.wait_until(self._tell_load())

    def _refuse_if_full(self, config: ShardConfig, size: int) -> None:
        if self._messages.size_bytes + size > config.backlog_bytes_max:
            raise Overloaded(
                f"Storage Limit Exceeded: {self._messages.size_bytes} bytes of messages wait in this shard of the "
                f"queue, of which it may hold {config.backlog_bytes_max}. Nothing was stored; send it again when "
                "consumers have caught up, or purge the queue.",
                code=CODE_BACKLOG_FULL,
                retry_after_s=5,
            )

    def _appended(self, stored: int) -> Appended:
        backlog = self.backlog()
        return Appended(stored, backlog.messages, backlog.bytes, backlog.oldest_ms)

    # -- out ----------------------------------------------------------------------------------------------

    async def lease(
        self, consumer: str, holder: str, messages_max: int, lease_ms: int, wait_ms: int, full: bool = True
    ) -> Lease:
        """Up to `messages_max` (1 to 100) messages, for `lease_ms`, when a batch is due; nothing if none is within
        `wait_ms` (0 to 20,000). `full`: a batch is due when it is full, or its oldest message has waited for the
        consumer's `max_wait_time_ms`; else when there is a message. `holder`: the consumer shard, or empty.

        Raises `NotFound` for a consumer that is none (any more), `Overloaded` when too many wait already."""
        messages_max = max(1, min(messages_max, QUEUE_BATCH_MESSAGES_MAX))
        until_ms = self.ctx.clock.elapsed_ms() + max(0, min(wait_ms, QUEUE_WAIT_MS_MAX))
        first = True
        while True:
            mine = self._consumer(consumer)
            taken = self._take(mine, holder, messages_max, lease_ms, full)
            left_ms = until_ms - self.ctx.clock.elapsed_ms()
            if taken is not None or left_ms <= 0:
                return taken if taken is not None else Lease(0, 0, b"\x90", 0, self._messages.count)
            await self._wait(mine, self._pause_ms(mine, messages_max, full, left_ms), first)
            first = False

    def _consumer(self, id: str) -> Deliveries:
        consumer = self._consumers.get(id)
        if consumer is None:
            raise NotFound(f"The queue has no consumer {id!r}.", code=11006)
        return consumer

    def _take(
        self, consumer: Deliveries, holder: str, messages_max: int, lease_ms: int, full: bool
    ) -> Lease | None:
        if self._map.settings.delivery_paused:
            return None
        self._end_leases(consumer)
        now_ms = self.ctx.clock.now_ms()
        taken = consumer.take(
            self._new_lease(),
            holder,
            messages_max,
            lease_ms,
            full,
            now_ms=now_ms,
            elapsed_ms=self.ctx.clock.elapsed_ms(),
            waiting_too=not self._purging,
        )
        if taken is None:
            return None
        counters = self._counters
        counters.delivered += len(taken.messages)
        counters.redelivered += taken.redelivered
        self._set_alarm(taken.deadline_ms)
        self._serve(consumer)  # there may be more
        return Lease(
            taken.lease,
            taken.deadline_ms,
            encode_messages(taken.messages),
            len(taken.messages),
            self._messages.count,
        )

    def _new_lease(self) -> int:
        while True:
            lease = self.ctx.rng.getrandbits(62) + 1
            if not any(consumer.has(lease) for consumer in self._consumers.values()):
                return lease

    def _pause_ms(self, consumer: Deliveries, messages_max: int, full: bool, left_ms: int) -> int:
        """How long to wait, unless something happens, before looking again."""
        if self._map.settings.delivery_paused:
            return left_ms
        now_ms, elapsed_ms = self.ctx.clock.now_ms(), self.ctx.clock.elapsed_ms()
        pauses = [left_ms]
        due_ms = consumer.due_ms(messages_max, full, now_ms)
        if due_ms is not None:
            pauses.append(due_ms - now_ms)
        end_ms = consumer.next_end_ms()
        if end_ms is not None:
            pauses.append(end_ms - elapsed_ms)
        return max(1, min(pauses))

    async def _wait(self, consumer: Deliveries, pause_ms: int, first: bool) -> None:
        waiters = self._waiters.setdefault(consumer.id, deque())
        if len(waiters) >= QUEUE_WAITERS_MAX:
            raise Overloaded(f"{len(waiters)} calls wait for messages already, the limit.", retry_after_s=1)
        woken = asyncio.get_running_loop().create_future()
        if first:
            waiters.append(woken)
        else:
            waiters.appendleft(woken)
        try:
            async with asyncio.timeout(pause_ms / 1000):
                await woken
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            if woken.done() and not woken.cancelled():
                self._wake(consumer.id)  # it was woken, and will not look
            raise
        finally:
            if woken in waiters:
                waiters.remove(woken)

    def _wake(self, consumer: str, all: bool = False) -> bool:
        """Let the first that waits look again; whether any does."""
        waiters = self._waiters.get(consumer)
        woken = False
        while waiters and (all or not woken):
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                woken = True
        return woken

    def _serve(self, consumer: Deliveries) -> None:
        """There may be work for this consumer: wake who waits for it, or tell its shards."""
        batch_size = consumer.settings.batch_size
        now_ms = self.ctx.clock.now_ms()
        due_ms = consumer.due_ms(batch_size, True, now_ms)
        if due_ms is None or self._wake(consumer.id) or consumer.settings.type == "http_pull":
            return
        # Its shards sleep, are busy, or were lost. The alarm is for the last.
        since_ms = self.ctx.clock.elapsed_ms() - self._rung_ms.get(consumer.id, -QUEUE_TICK_MS)
        if due_ms <= now_ms and since_ms >= QUEUE_RING_MS:
            self._ring(consumer)
        self._set_alarm(max(due_ms, now_ms + (QUEUE_TICK_MS if due_ms <= now_ms else 0)))

    def _ring(self, consumer: Deliveries) -> None:
        self._rung_ms[consumer.id] = self.ctx.clock.elapsed_ms()
        for shard in next((c.shards for c in self._map.consumers if c.id == consumer.id), []):
            self.ctx.wait_until(self._ring_one(shard))

    async def _ring_one(self, shard: str) -> None:
        try:
            await self.ctx.namespace("ConsumerShard").get_by_name(shard).wake()
        except PenstockError as error:
            log.info("consumer_shard_not_rung", shard=shard, error=error.message)  # the alarm rings again

    # -- what becomes of it -------------------------------------------------------------------------------

    def settle(self, consumer: str, settlements: list[Settlement]) -> int:
        """Do what the consumer says of leases. Those that have ended are left out: their messages are delivered
        again. Gives how many messages were acknowledged."""
        mine = self._consumers.get(consumer)
        if mine is None:
            return 0
        now_ms, settled = self.ctx.clock.now_ms(), Settled()
        done: list[Span] = []
        for settlement in settlements:
            done += mine.settle(settlement, settled, now_ms)
        return self._finish(mine, done, settled)

    def settle_messages(
        self, consumer: str, acks: list[MessageRef], retries: list[tuple[MessageRef, int | None]]
    ) -> list[bool]:
        """Do what a consumer says of messages that it pulled, acknowledgements first. For each whether it had an
        effect. A message may be acknowledged late, when somebody else has it already; retried it is only by who has
        it."""
        mine = self._consumers.get(consumer)
        if mine is None:
            return [False] * (len(acks) + len(retries))
        now_ms, settled = self.ctx.clock.now_ms(), Settled()
        done = mine.acknowledge([ack.sequence for ack in acks])
        effects = [any(first <= ack.sequence <= last for first, last in done) for ack in acks]
        for ref, delay_ms in retries:
            was, purged = mine.retry(ref, delay_ms, settled, now_ms)
            effects.append(was)
            done += purged
        self._finish(mine, done, settled)
        return effects

    def _finish(self, consumer: Deliveries, done: list[Span], settled: Settled) -> int:
        """Note what a consumer is done with, and let go what nobody needs any more. Gives how many are done."""
        counters = self._counters
        gone = self._free(consumer, sorted(done))
        acknowledged = sum(last - first + 1 for first, last in done)
        counters.acknowledged += acknowledged
        counters.retried += settled.retried
        if settled.dead:
            self._set_alarm(self.ctx.clock.now_ms())
        if gone:
            self._oldest_ms = None
            self._note_backlog()
        if settled.retried:
            self._serve(consumer)
        if not self._messages.count and not self._open:
            self._set_alarm(self.ctx.clock.now_ms())
        return acknowledged

    def _free(self, consumer: Deliveries | None, spans: list[Span]) -> int:
        for other in self._consumers.values():
            if spans and other is not consumer:
                spans = other.not_needed(spans)
        return self._messages.delete(spans) if spans else 0

    def _end_leases(self, consumer: Deliveries) -> None:
        elapsed_ms = self.ctx.clock.elapsed_ms()
        end_ms = consumer.next_end_ms()
        if end_ms is None or end_ms > elapsed_ms:
            return
        settled = Settled()
        ended, done = consumer.end_leases(settled, now_ms=self.ctx.clock.now_ms(), elapsed_ms=elapsed_ms)
        self._counters.leases_ended += ended
        dead = sum(settled.dead.values())
        log.info("leases_ended", queue=self._map.queue_id, consumer=consumer.id, leases=ended, dead=dead)
        self._finish(consumer, done, settled)

    def extend(self, consumer: str, leases: list[int], lease_ms: int) -> list[int]:
        """Let these leases last `lease_ms` from now on. Gives those that there still are."""
        mine = self._consumers.get(consumer)
        if mine is None:
            return []
        return mine.extend(leases, lease_ms, now_ms=self.ctx.clock.now_ms(), elapsed_ms=self.ctx.clock.elapsed_ms())

    def release(self, consumer: str, leases: list[int]) -> None:
        """Take back leases whose messages were not delivered: they do not count as attempts."""
        mine = self._consumers.get(consumer)
        if mine is not None:
            mine.release(leases, self.ctx.clock.now_ms())
            self._serve(mine)

    def held(self, consumer: str, holder: str) -> list[HeldLease]:
        """The leases that a consumer shard has out."""
        mine = self._consumers.get(consumer)
        return [] if mine is None else mine.held(holder)

    # -- control ------------------------------------------------------------------------------------------

    def configure(self, config: ShardConfig) -> None:
        """Take the queue's map. A consumer that is new gets all messages that there are; what only one needed that
        is gone is deleted. An older map than the one that the shard has changes nothing."""
        if self._config is not None and config.map.version < self._config.map.version:
            return
        self._config = config
        self._messages.uid = config.uid
        self._sql.exec("UPDATE state SET config = ?1", json.encode(config).decode())
        wanted = {consumer.id: consumer for consumer in config.map.consumers}
        for id in [id for id in self._consumers if id not in wanted]:
            self._consumers.pop(id).remove()
            self._wake(id, all=True)
            self._sweeping = bool(self._consumers)
            self._sql.exec("UPDATE state SET sweeping = ?1", self._sweeping)
        for id, consumer in wanted.items():
            if id in self._consumers:
                self._consumers[id].settings = consumer.settings
            else:
                self._open_consumer(id, Deliveries.add(self._sql, self._messages, id))
            self._wake(id, all=True)
        self.env.statistics.names[config.map.queue_id] = config.map.settings.name
        self._note_backlog()
        self._set_alarm(self.ctx.clock.now_ms())

    def purge(self) -> None:
        """Forget all messages but those that a consumer has right now, which are not delivered again either."""
        self._purged_to = self._messages.last_sequence
        self._purging = True
        self._sql.exec("UPDATE state SET purged_to = ?1, purging = 1", self._purged_to)
        for consumer in self._consumers.values():
            consumer.purge(self._purged_to)
        self._set_alarm(self.ctx.clock.now_ms())

    def purge_messages(self, sequences: list[int]) -> list[bool]:
        """Forget these messages, whoever has them. For each whether it was there."""
        present = []
        for sequence in sequences:
            present.append(self._messages.delete([(sequence, sequence)]) > 0)
        for consumer in self._consumers.values():
            consumer.acknowledge(sequences)
            consumer.recount()
        self._counters.purged += sum(present)
        self._oldest_ms = None
        self._note_backlog()
        return present

    def peek(self, after: int, limit: int) -> bytes:
        """Up to `limit` messages with a number above `after` (`encode_messages`), in order, whoever has them;
        attempts are not said (0)."""
        return encode_messages(self._messages.read(after + 1, self._messages.last_sequence, 0, limit))

    def backlog(self) -> Backlog:
        if self._oldest_ms is None:
            self._oldest_ms = self._messages.oldest_ms()
        return Backlog(self._messages.count, self._messages.size_bytes, self._oldest_ms)

    def status(self) -> StorageStatus:
        consumers = [
            ConsumerStatus(c.id, c.fresh, c.leases_out, len(self._waiters.get(c.id, ())))
            for c in self._consumers.values()
        ]
        return StorageStatus(self.backlog(), self._open, self._drained, self._purging, consumers)

    def remove(self) -> None:
        """Forget everything: the queue is deleted."""
        for id in self._consumers:
            self._wake(id, all=True)
        self.env.statistics.backlog.pop(self.ctx.name, None)
        self.ctx.storage.delete_all()
        self._start()

    # -- by itself ----------------------------------------------------------------------------------------

    async def alarm(self, info: AlarmInfo) -> None:
        self._alarm_ms = None
        if self._config is None:
            return
        self._working = True
        try:
            for consumer in list(self._consumers.values()):
                self._end_leases(consumer)
            await self._expire()
            if self._purging:
                await self._delete_purged()
            if self._sweeping:
                await self._sweep()
            await self._move_dead()
            if not self._messages.count:
                await self._storage.give_back_space()
                await self._report_drained()
        finally:
            self._working = False
        self._set_next_alarm()

    def _set_alarm(self, at_ms: int) -> None:
        if self._alarm_ms is None or at_ms < self._alarm_ms:
            self._alarm_ms = at_ms
            self.ctx.storage.set_alarm(at_ms)

    def _set_next_alarm(self) -> None:
        """For the next thing that must happen even if nobody calls."""
        config = self._config
        if config is None:
            return
        now_ms, elapsed_ms = self.ctx.clock.now_ms(), self.ctx.clock.elapsed_ms()
        times: list[int] = []
        oldest_ms = self.backlog().oldest_ms
        if oldest_ms is not None:
            retention_ms = config.map.settings.message_retention_period_s * 1000
            # What was delayed outlives its retention; it is not looked at all the time for that.
            times.append(max(oldest_ms + retention_ms + 1, now_ms + QUEUE_TICK_MS))
        for consumer in self._consumers.values():
            end_ms = consumer.next_end_ms()
            if end_ms is not None:
                times.append(now_ms + max(1, end_ms - elapsed_ms))
            if consumer.dead(1):
                times.append(max(self._dead_retry_ms, now_ms))
            if consumer.settings.type == "http_pull" or config.map.settings.delivery_paused:
                continue
            due_ms = consumer.due_ms(consumer.settings.batch_size, True, now_ms)
            if due_ms is not None and due_ms > now_ms:
                times.append(due_ms)
            elif due_ms is not None:
                if not self._wake(consumer.id):
                    self._ring(consumer)
                times.append(now_ms + QUEUE_TICK_MS)
        if not self._messages.count and not self._open and not self._drained:
            times.append(now_ms + QUEUE_TICK_MS)
        if times:
            self._set_alarm(min(times))

    async def _expire(self) -> None:
        """Delete messages that are older than the queue keeps them."""
        while self._config is not None:
            before_ms = self.ctx.clock.now_ms() - self._map.settings.message_retention_period_s * 1000
            spans, looked_to = self._messages.expired(self._expired_to, before_ms, QUEUE_SLICE_MESSAGES)
            for consumer in self._consumers.values():
                dead = [(message.sequence, message.sequence) for message in consumer.dead(QUEUE_SLICE_MESSAGES)]
                spans = without(spans, dead)
            gone = self._messages.delete(spans)
            if gone:
                self._counters.expired += gone
                log.info("messages_expired", queue=self._map.queue_id, shard=self.ctx.name, messages=gone)
                self._after_deleted()
            self._expired_to = looked_to or 0
            if looked_to is None:
                return
            await self._storage.sync()

    async def _delete_purged(self) -> None:
        """Delete what is purged, a slice at a time."""
        after, purged_to = 0, self._purged_to
        for consumer in list(self._consumers.values()):
            while consumer.purge_waiting(QUEUE_SLICE_MESSAGES):
                await self._storage.sync()
        while self._config is not None and after < purged_to:
            spans, after = self._messages.slice_of(after, purged_to, QUEUE_SLICE_MESSAGES)
            kept: list[Span] = []
            for consumer in self._consumers.values():
                kept += consumer.kept_through_purge(spans)
            self._counters.purged += self._messages.delete(without(spans, sorted(kept)))
            self._after_deleted()
            await self._storage.sync()
        if self._config is not None and purged_to == self._purged_to:
            self._purging = False
            self._sql.exec("UPDATE state SET purging = 0")
            for consumer in self._consumers.values():
                self._serve(consumer)
        await self._storage.give_back_space()

    async def _sweep(self) -> None:
        """Delete what only consumers needed that were removed."""
        after = 0
        while self._config is not None and self._consumers and after < self._messages.last_sequence:
            last = min(consumer.cursor - 1 for consumer in self._consumers.values())
            if after >= last:
                break
            spans, after = self._messages.slice_of(after, last, QUEUE_SLICE_MESSAGES)
            if self._free(None, spans):
                self._after_deleted()
            await self._storage.sync()
        self._sweeping = False
        self._sql.exec("UPDATE state SET sweeping = 0")

    def _after_deleted(self) -> None:
        self._oldest_ms = None
        for consumer in self._consumers.values():
            consumer.recount()
        self._note_backlog()

    async def _move_dead(self) -> None:
        """Move dead letters to where each consumer wants them; without such a queue they are deleted."""
        if self.ctx.clock.now_ms() < self._dead_retry_ms:
            return
        try:
            for consumer in list(self._consumers.values()):
                while await self._move_some_dead(consumer):
                    pass
            self._dead_failures = self._dead_retry_ms = 0
        except PenstockError as error:
            self._dead_failures += 1
            wait_ms = min(QUEUE_DEAD_RETRY_MS_MAX, 500 << min(self._dead_failures, 10))
            self._dead_retry_ms = self.ctx.clock.now_ms() + wait_ms
            log.warning(
                "dead_letters_not_moved",
                queue=self._config.map.queue_id if self._config else None,
                shard=self.ctx.name,
                retry_in_ms=wait_ms,
                error=error.message,
            )

    async def _move_some_dead(self, consumer: Deliveries) -> bool:
        dead = consumer.dead(QUEUE_DEAD_BATCH)
        if not dead or self._config is None:
            return False
        shard_map, target = self._map, consumer.settings.dead_letter_queue
        letters = []
        for one in dead:
            for message in self._messages.read(one.sequence, one.sequence, one.attempts, 1):
                letters.append(as_dead_letter(message, one, shard_map, consumer.id))
        if target and letters:
            await self._send_to(target, letters)
        if self._consumers.get(consumer.id) is not consumer or self._config is None:
            return False
        reasons = Counter(one.reason for one in dead)
        log.info(
            "dead_letters_moved" if target else "messages_dropped",
            queue=shard_map.queue_id,
            consumer=consumer.id,
            target=target or None,
            messages=len(dead),
            reasons=dict(reasons),
        )
        (self._counters.dead if target else self._counters.dropped).update(reasons)
        if self._free(consumer, consumer.bury([one.sequence for one in dead])):
            self._after_deleted()
        return True

    async def _send_to(self, queue: str, letters: list[NewMessage]) -> None:
        """Store dead letters in another queue, which is made if there is none."""
        registry = self.ctx.namespace("QueueRegistry").get_by_name(QUEUE_REGISTRY)
        id: str = await registry.ensure(self._map.account, queue)
        shard_map: ShardMap = await self.ctx.namespace("QueueCoordinator").get_by_name(id).shard_map()
        home = self.ctx.namespace("StorageShard").get_by_name(shard_map.shards[0].name)
        await home.append(encode_new(letters), shard_map.version)

    async def _report_drained(self) -> None:
        if self._config is None or self._open or self._drained or self._messages.count:
            return
        try:
            await self.ctx.namespace("QueueCoordinator").get_by_name(self._map.queue_id).drained(self.ctx.name)
        except PenstockError as error:
            log.info("drained_not_reported", shard=self.ctx.name, error=error.message)
            return
        self._drained = True
        self._sql.exec("UPDATE state SET drained = 1")

    async def _tell_load(self) -> None:
        load = self._meter.read(self._messages.count, self._messages.size_bytes, self.ctx.clock.elapsed_ms())
        coordinator = self.ctx.namespace("QueueCoordinator").get_by_name(self._map.queue_id)
        try:
            await coordinator.storage_heartbeat(load)
        except PenstockError as error:
            log.info("load_not_told", shard=self.ctx.name, error=error.message)

    def _note_backlog(self) -> None:
        if self._config is not None:
            self.env.statistics.backlog[self.ctx.name] = (self._messages.count, self._messages.size_bytes)
