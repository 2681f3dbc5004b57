"""The head of one queue: its settings, its consumers, and how many shards of both kinds it has.

What is to be is stored first and told then (`telling.py`); an alarm set in the same transaction finishes that if
the process dies in between. Losing the coordinator stops changes and scaling, never sending or delivering: brokers
read the shard map from the KV, shards have it.
"""

from __future__ import annotations

from typing import Any

import structlog
from msgspec import Struct, to_builtins

from penstock.base.errors import Conflict, Invalid, NotFound, StorageFull, Unavailable
from penstock.base.ids import random_id
from penstock.base.limits import CONSUMERS_MAX
from penstock.objects import AlarmInfo, Context, DurableObject, Stub
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.queues.backlog import Backlog
from penstock.queues.codes import (
    CODE_CONSUMER_EXISTS,
    CODE_INVALID_CONSUMER,
    CODE_INVALID_QUEUE,
    CODE_UNKNOWN_CONSUMER,
)
from penstock.queues.environment import QueueEnv
from penstock.queues.loads import ConsumerLoads, StorageLoads
from penstock.queues.queue_tables import ConsumerShardRow, QueueTables, ShardState, StorageShardRow
from penstock.queues.scaling import (
    SHRINK_AFTER_MS,
    ConsumerLoad,
    StorageLoad,
    concurrency_ceiling,
    first_concurrency,
    share_of,
    wanted_concurrency,
)
from penstock.queues.settings import Consumer, ConsumerSettings, QueueDescription, QueueSettings
from penstock.queues.shard_map import ShardMap
from penstock.queues.telling import Telling

log = structlog.get_logger("penstock.queues")

#: A telling that a crash interrupted is taken up again after this time.
_TELL_AGAIN_MS = 1_000


class PurgeStatus(Struct, frozen=True):
    """`started_ms`: when the last purge was asked for, None if none ever was. `completed`: whether every shard has
    deleted what it had then."""

    started_ms: int | None
    completed: bool


class ShardDescription(Struct, frozen=True):
    """A shard as it is now. `kind`: `storage` or `consumer`. `state`: `open`, `closing`, `closed` or `empty` of a
    storage shard, `active` or `resting` of a consumer shard. `concurrency`: batches at once of a consumer shard.
    `status`: what it says of itself, None if it could not be asked."""

    kind: str
    name: str
    slot: int
    state: str
    status: dict[str, Any] | None
    consumer_id: str | None = None
    concurrency: int | None = None


class QueueCoordinator(DurableObject[QueueEnv]):
    """Its name is the queue's id."""

    def __init__(self, ctx: Context, env: QueueEnv) -> None:
        super().__init__(ctx, env)
        self._tables = QueueTables(SystemSql(system_storage(ctx.storage)), ctx.name, env.executors)
        self._telling = Telling(ctx, self._tables, env.limits)
        self._storage_loads = StorageLoads(ctx.clock.elapsed_ms())
        self._consumer_loads: dict[str, ConsumerLoads] = {}

    # -- the queue ----------------------------------------------------------------------------------------

    async def create(self, account: str, settings: QueueSettings) -> QueueDescription:
        """Store the settings, make the first shard and let brokers see it. Harmless to do again after an attempt
        that was cut short."""
        if self._tables.exists:
            self._tables.store_settings(settings, self.ctx.clock.now_ms())
        else:
            self._tables.insert(account, settings, self.ctx.clock.now_ms())
            self._tables.open_shard(self._new_uid())
        await self._tell()
        return self.describe()

    def describe(self) -> QueueDescription:
        """Raises `NotFound` when there is no such queue, or no longer; so do the others."""
        self._tables.require()
        return self._tables.describe()

    def shard_map(self) -> ShardMap:
        """The newest, which brokers may not see yet."""
        self._tables.require()
        return self._tables.shard_map()

    async def update(self, settings: QueueSettings) -> QueueDescription:
        """Go on with other settings. Raises `Conflict` when another queue has the new name, `Invalid` when only one
        consumer is allowed where there are more."""
        self._tables.require()
        if not settings.multiple_consumers and len(self._tables.consumers()) > 1:
            raise Invalid(
                "settings.multiple_consumers cannot be false while the queue has more than one: remove the others.",
                code=CODE_INVALID_QUEUE,
            )
        current = self._tables.wanted_settings or self._tables.settings
        if settings.name != current.name:
            self._tables.store_wanted(settings)
            self._tell_later()
            await self._telling.take_name()
        elif settings != current:
            self._tables.store_settings(settings, self.ctx.clock.now_ms())
        await self._tell()
        return self.describe()

    async def delete(self) -> None:
        """Delete the queue with its messages and consumers. Doing it again is harmless."""
        if self._tables.exists:
            self._tables.delete()
        if self._tables.is_deleted:
            await self._tell()

    # -- consumers ----------------------------------------------------------------------------------------

    async def add_consumer(self, settings: ConsumerSettings) -> Consumer:
        """Raises `Conflict` if there is one already and the queue does not take several, or if its script has one
        here; `Invalid`."""
        self._tables.require()
        return await self._put_consumer(random_id(self.ctx.rng), settings)

    async def update_consumer(self, id: str, settings: ConsumerSettings) -> Consumer:
        """Other settings for a consumer; if there is none with this id it is made. Raises as `add_consumer`, and
        `Invalid` for another type than it has."""
        self._tables.require()
        known = self._tables.consumer(id)
        if known is not None and known.settings.type != settings.type:
            raise Invalid(
                f"type cannot be changed from {known.settings.type!r} to {settings.type!r}: remove the consumer "
                "and add another.",
                code=CODE_INVALID_CONSUMER,
            )
        return await self._put_consumer(id, settings)

    async def remove_consumer(self, id: str) -> None:
        """Raises `NotFound`."""
        self._tables.require()
        self._require_consumer(id)
        self._tables.remove_consumer(id, self.ctx.clock.now_ms())
        self._consumer_loads.pop(id, None)
        await self._tell()

    async def _put_consumer(self, id: str, settings: ConsumerSettings) -> Consumer:
        self._check_consumer(id, settings)
        known = self._tables.consumer(id)
        ceiling = concurrency_ceiling(settings.max_concurrency, self.env.limits.queue_concurrency_max)
        concurrency = first_concurrency(ceiling) if known is None else min(known.concurrency, ceiling)
        if known is None or known.settings != settings or known.concurrency != concurrency:
            self._tables.put_consumer(id, settings, concurrency, self.ctx.clock.now_ms())
        await self._tell()
        return self._require_consumer(id)

    def _check_consumer(self, id: str, settings: ConsumerSettings) -> None:
        queue = self._tables.settings
        if settings.dead_letter_queue == queue.name:
            raise Invalid(
                f"dead_letter_queue is {queue.name!r} itself; name another queue.", code=CODE_INVALID_CONSUMER
            )
        others = [consumer for consumer in self._tables.consumers() if consumer.id != id]
        if others and not queue.multiple_consumers:
            raise Conflict(
                f"Queue {queue.name!r} has a consumer already (consumer_exists): remove it first, or let the queue "
                "take several with settings.multiple_consumers.",
                code=CODE_CONSUMER_EXISTS,
            )
        if len(others) >= CONSUMERS_MAX:
            raise Invalid(
                f"Queue {queue.name!r} has {CONSUMERS_MAX} consumers, the most that it may have.",
                code=CODE_INVALID_CONSUMER,
            )
        if settings.type == "worker" and any(_is_of(other.settings, settings) for other in others):
            raise Conflict(
                f"Script {settings.script!r} is a consumer of queue {queue.name!r} already (consumer_exists).",
                code=CODE_CONSUMER_EXISTS,
            )

    def _require_consumer(self, id: str) -> Consumer:
        self._tables.require()
        consumer = self._tables.consumer(id)
        if consumer is None:
            raise NotFound(f"The queue has no consumer with ID {id[:64]!r}.", code=CODE_UNKNOWN_CONSUMER)
        return consumer

    # -- messages -----------------------------------------------------------------------------------------

    async def purge(self) -> PurgeStatus:
        """Delete all messages that the shards have. What is being handled may still be handled."""
        self._tables.require()
        self._tables.begin_purge(self.ctx.clock.now_ms())
        await self._tell()
        return self.purge_status()

    def purge_status(self) -> PurgeStatus:
        self._tables.require()
        return PurgeStatus(self._tables.purged_ms, not self._tables.unpurged_shards())

    async def metrics(self) -> Backlog:
        """What all shards hold. Raises `Unavailable` when one of them cannot be asked."""
        self._tables.require()
        found: list[Backlog] = [
            await self._storage_shard(shard.name).backlog() for shard in self._tables.storage_shards()
        ]
        return Backlog(
            messages=sum(backlog.messages for backlog in found),
            bytes=sum(backlog.bytes for backlog in found),
            oldest_ms=min((b.oldest_ms for b in found if b.oldest_ms is not None), default=None),
        )

    # -- shards -------------------------------------------------------------------------------------------

    async def shards(self) -> list[ShardDescription]:
        """All shards with what they say of themselves."""
        self._tables.require()
        storage = [await self._described_storage(shard) for shard in self._tables.storage_shards()]
        consumers = {consumer.id: consumer.concurrency for consumer in self._tables.consumers()}
        consuming = [
            await self._described_consumer(shard, share_of(consumers[shard.consumer], shard.position))
            for shard in self._tables.consumer_shards()
            if shard.consumer in consumers
        ]
        return storage + consuming

    async def _described_storage(self, shard: StorageShardRow) -> ShardDescription:
        stub = self._storage_shard(shard.name)
        return ShardDescription("storage", shard.name, stub.slot, shard.state.name.lower(), await _status(stub))

    async def _described_consumer(self, shard: ConsumerShardRow, share: int) -> ShardDescription:
        stub = self.ctx.namespace("ConsumerShard").get_by_name(shard.name)
        state = "active" if share else "resting"
        status = await _status(stub)
        return ShardDescription("consumer", shard.name, stub.slot, state, status, shard.consumer, share)

    def storage_heartbeat(self, load: StorageLoad) -> None:
        """A storage shard says how busy it is; the number of those that take messages follows."""
        if self._tables.exists and self._tables.storage_shard(load.shard) is not None:
            self._storage_loads.note(load, self.ctx.clock.elapsed_ms())
            self._scale_storage()

    def consumer_heartbeat(self, load: ConsumerLoad) -> None:
        """A consumer shard says what it did; the consumer's concurrency follows."""
        consumer = self._tables.consumer(load.consumer) if self._tables.exists else None
        if consumer is not None:
            now_ms = self.ctx.clock.elapsed_ms()
            self._loads_of(consumer.id).note(load, now_ms)
            self._scale_consumer(consumer)

    async def drained(self, shard: str) -> None:
        """A shard says that it takes no more messages and has none."""
        if not self._is_closed(shard):
            return
        backlog: Backlog = await self._storage_shard(shard).backlog()
        # It was opened again meanwhile; or before, and what it said is from then.
        if backlog.messages or not self._is_closed(shard):
            return
        self._tables.set_state(shard, ShardState.EMPTY)
        self._tables.touch()
        self._storage_loads.forget(shard)
        self._tell_later(0)

    def _is_closed(self, shard: str) -> bool:
        row = self._tables.storage_shard(shard) if self._tables.exists else None
        return row is not None and row.state is ShardState.CLOSED and row.told > 0

    def _scale_storage(self) -> None:
        names = [shard.name for shard in self._tables.storage_shards(ShardState.OPEN)]
        wanted = self._storage_loads.wanted(names, self.env.executors, self.ctx.clock.elapsed_ms())
        if wanted == len(names):
            return
        for _ in range(len(names), wanted):
            self._tables.open_shard(self._new_uid())
        for _ in range(wanted, len(names)):
            self._tables.close_shard()
        log.info("storage_shards_scaled", queue=self.ctx.name, before=len(names), after=wanted)
        self._tell_later(0)

    def _scale_consumer(self, consumer: Consumer) -> None:
        if consumer.settings.type == "http_pull":
            return
        now_ms = self.ctx.clock.elapsed_ms()
        demand = self._loads_of(consumer.id).demand(self._storage_loads, consumer.settings.batch_size, now_ms)
        ceiling = concurrency_ceiling(consumer.settings.max_concurrency, self.env.limits.queue_concurrency_max)
        wanted = wanted_concurrency(demand, consumer.concurrency, ceiling)
        if wanted == consumer.concurrency:
            return
        self._tables.set_concurrency(consumer.id, wanted)
        self._consumer_loads[consumer.id] = ConsumerLoads(now_ms)
        log.info(
            "consumer_scaled",
            queue=self.ctx.name,
            consumer=consumer.id,
            before=consumer.concurrency,
            after=wanted,
        )
        self._tell_later(0)

    def _loads_of(self, consumer: str) -> ConsumerLoads:
        loads = self._consumer_loads.get(consumer)
        if loads is None:
            loads = self._consumer_loads[consumer] = ConsumerLoads(self.ctx.clock.elapsed_ms())
        return loads

    # -- telling ------------------------------------------------------------------------------------------

    async def alarm(self, info: AlarmInfo) -> None:
        if self._tables.exists:
            # Shards that have nothing to do say nothing, and are to become fewer all the same.
            self._scale_storage()
            for consumer in self._tables.consumers():
                self._scale_consumer(consumer)
        await self._tell()

    async def _tell(self) -> None:
        self._tell_later()
        await self._telling.finish()
        if not self._tables.exists:
            if not self._tables.is_deleted:
                self.ctx.storage.delete_alarm()
        elif self._tables.is_told:
            self._look_again_later()

    def _tell_later(self, wait_ms: int = _TELL_AGAIN_MS) -> None:
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + wait_ms)

    def _look_again_later(self) -> None:
        """Everybody knows everything: wake only to see whether there is more of anything than is needed."""
        if self._has_grown():
            self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + SHRINK_AFTER_MS)
        else:
            self.ctx.storage.delete_alarm()

    def _has_grown(self) -> bool:
        if len(self._tables.storage_shards(ShardState.OPEN)) > 1:
            return True
        limit = self.env.limits.queue_concurrency_max
        return any(
            consumer.concurrency > first_concurrency(concurrency_ceiling(consumer.settings.max_concurrency, limit))
            for consumer in self._tables.consumers()
        )

    def _storage_shard(self, name: str) -> Stub:
        return self.ctx.namespace("StorageShard").get_by_name(name)

    def _new_uid(self) -> str:
        return f"{self.ctx.rng.getrandbits(64):016x}"


def _is_of(one: ConsumerSettings, other: ConsumerSettings) -> bool:
    return one.type == other.type and (one.script, one.environment) == (other.script, other.environment)


async def _status(shard: Stub) -> dict[str, Any] | None:
    try:
        return to_builtins(await shard.status())  # type: ignore[no-any-return]
    except (Unavailable, StorageFull) as error:
        log.info("shard_not_asked", shard=shard.id.name, error=error.message)
        return None
