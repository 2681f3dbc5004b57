"""What a queue's coordinator stores: the queue, its consumers, its shards, and which of them know it.

`version` rises with whatever shards or brokers have to know; each shard's `told` is the version that it knows.
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct, json, structs

from penstock.base.errors import NotFound
from penstock.objects.sql import SystemSql
from penstock.queues.codes import CODE_UNKNOWN_QUEUE
from penstock.queues.scaling import consumer_shard_count, share_of
from penstock.queues.settings import Consumer, ConsumerSettings, QueueDescription, QueueSettings
from penstock.queues.shard_map import (
    ConsumerShardConfig,
    ShardConfig,
    ShardMap,
    ShardRef,
    consumer_shard_name,
    storage_shard_name,
)

_TABLES = """
CREATE TABLE IF NOT EXISTS queue (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  account TEXT NOT NULL,
  settings TEXT NOT NULL,          -- QueueSettings
  wanted TEXT,                     -- those that wait for the queue's new name to be theirs
  created_ms INTEGER NOT NULL,
  modified_ms INTEGER NOT NULL,
  version INTEGER NOT NULL,
  mapped INTEGER NOT NULL,         -- the version that brokers can see
  deleted INTEGER NOT NULL,
  purged_ms INTEGER                -- when the last purge was asked for
) STRICT;
CREATE TABLE IF NOT EXISTS consumers (
  id TEXT PRIMARY KEY,
  settings TEXT NOT NULL,          -- ConsumerSettings
  created_ms INTEGER NOT NULL,
  concurrency INTEGER NOT NULL,
  removed INTEGER NOT NULL         -- its shards are still to be removed
) STRICT;
CREATE TABLE IF NOT EXISTS storage_shards (
  position INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  uid TEXT NOT NULL UNIQUE,
  state INTEGER NOT NULL,
  told INTEGER NOT NULL,
  purged INTEGER NOT NULL          -- it knows of the last purge
) STRICT;
CREATE TABLE IF NOT EXISTS consumer_shards (
  name TEXT PRIMARY KEY,
  consumer TEXT NOT NULL,
  position INTEGER NOT NULL,
  told INTEGER NOT NULL
) STRICT;
"""


class ShardState(IntEnum):
    """Of a storage shard. CLOSING: brokers may not know yet that it is to take no more messages, so it still does.
    EMPTY: it has given away its last message and is to be removed."""

    OPEN = 0
    CLOSING = 1
    CLOSED = 2
    EMPTY = 3


class StorageShardRow(Struct, frozen=True):
    position: int
    name: str
    uid: str
    state: ShardState
    told: int


class ConsumerShardRow(Struct, frozen=True):
    name: str
    consumer: str
    position: int
    told: int


class QueueTables:
    """Of the queue with this id. Whatever is written in one step commits together."""

    def __init__(self, sql: SystemSql, queue_id: str, executors: int) -> None:
        self._sql = sql
        self._queue_id = queue_id
        self._executors = executors
        self.make()

    def make(self) -> None:
        """Make the tables, where they are not there."""
        self._sql.exec(_TABLES)

    # -- the queue ----------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return self._sql.exec("SELECT 1 FROM queue WHERE NOT deleted").first() is not None

    @property
    def is_deleted(self) -> bool:
        """Whether there is something left of a queue that is deleted."""
        return self._sql.exec("SELECT 1 FROM queue WHERE deleted").first() is not None

    def require(self) -> None:
        """Raises `NotFound` unless the queue exists."""
        if not self.exists:
            raise NotFound("There is no such queue.", code=CODE_UNKNOWN_QUEUE)

    @property
    def account(self) -> str:
        account: str = self._sql.exec("SELECT account FROM queue").one()[0]
        return account

    @property
    def settings(self) -> QueueSettings:
        return json.decode(self._sql.exec("SELECT settings FROM queue").one()[0], type=QueueSettings)

    @property
    def wanted_settings(self) -> QueueSettings | None:
        text = self._sql.exec("SELECT wanted FROM queue").one()[0]
        return None if text is None else json.decode(text, type=QueueSettings)

    @property
    def version(self) -> int:
        version: int = self._sql.exec("SELECT version FROM queue").one()[0]
        return version

    @property
    def mapped(self) -> int:
        mapped: int = self._sql.exec("SELECT mapped FROM queue").one()[0]
        return mapped

    @property
    def purged_ms(self) -> int | None:
        at_ms: int | None = self._sql.exec("SELECT purged_ms FROM queue").one()[0]
        return at_ms

    def describe(self) -> QueueDescription:
        account, created_ms, modified_ms, version = self._sql.exec(
            "SELECT account, created_ms, modified_ms, version FROM queue"
        ).one()
        return QueueDescription(
            self._queue_id, account, self.settings, self.consumers(), created_ms, modified_ms, version
        )

    def shard_map(self) -> ShardMap:
        """As brokers and shards are to know it. A shard that is closing is closed for them."""
        shards = [
            ShardRef(shard.name, shard.uid, shard.state is ShardState.OPEN)
            for shard in self.storage_shards()
            if shard.state is not ShardState.EMPTY
        ]
        return ShardMap(self._queue_id, self.account, self.version, self.settings, shards, self.consumers())

    def insert(self, account: str, settings: QueueSettings, now_ms: int) -> None:
        self._sql.exec(
            "INSERT INTO queue VALUES (0, ?1, ?2, NULL, ?3, ?3, 1, 0, 0, NULL)",
            *(account, _text(settings), now_ms),
        )

    def store_settings(self, settings: QueueSettings, now_ms: int) -> None:
        self._sql.exec(
            "UPDATE queue SET settings = ?1, wanted = NULL, modified_ms = ?2, version = version + 1",
            *(_text(settings), now_ms),
        )

    def store_wanted(self, settings: QueueSettings | None) -> None:
        self._sql.exec("UPDATE queue SET wanted = ?1", None if settings is None else _text(settings))

    def touch(self, now_ms: int | None = None) -> None:
        """Something changed that has to be told; if an operator changed it, then now."""
        self._sql.exec("UPDATE queue SET version = version + 1, modified_ms = coalesce(?1, modified_ms)", now_ms)

    def note_mapped(self, version: int) -> None:
        self._sql.exec("UPDATE queue SET mapped = ?1", version)

    def delete(self) -> None:
        self._sql.exec("UPDATE queue SET deleted = 1")

    # -- consumers ----------------------------------------------------------------------------------------

    def consumers(self) -> list[Consumer]:
        """Those that there are, the oldest first."""
        rows = self._sql.exec(
            "SELECT id, settings, created_ms, concurrency FROM consumers WHERE NOT removed ORDER BY created_ms, id"
        ).to_list()
        return [self._consumer(*row) for row in rows]

    def _consumer(self, id: str, text: str, created_ms: int, concurrency: int) -> Consumer:
        settings = json.decode(text, type=ConsumerSettings)
        shards: list[str] = []
        if settings.type != "http_pull":
            positions = range(consumer_shard_count(concurrency))
            shards = [self._consumer_shard_name(id, position) for position in positions]
        return Consumer(id, settings, created_ms, concurrency, shards)

    def consumer(self, id: str) -> Consumer | None:
        return next((consumer for consumer in self.consumers() if consumer.id == id), None)

    def removed_consumers(self) -> list[str]:
        return [row[0] for row in self._sql.exec("SELECT id FROM consumers WHERE removed ORDER BY id")]

    def put_consumer(self, id: str, settings: ConsumerSettings, concurrency: int, now_ms: int) -> None:
        """A new one, or other settings of one that there is."""
        self._sql.exec(
            "INSERT INTO consumers VALUES (?1, ?2, ?3, ?4, 0) ON CONFLICT (id) DO UPDATE SET"
            " settings = excluded.settings, concurrency = excluded.concurrency, removed = 0",
            *(id, json.encode(settings).decode(), now_ms, concurrency),
        )
        self._add_consumer_shards(id)
        self.touch(now_ms)

    def set_concurrency(self, id: str, concurrency: int) -> None:
        self._sql.exec("UPDATE consumers SET concurrency = ?1 WHERE id = ?2", concurrency, id)
        self._add_consumer_shards(id)
        self.touch()

    def remove_consumer(self, id: str, now_ms: int) -> None:
        self._sql.exec("UPDATE consumers SET removed = 1 WHERE id = ?1", id)
        self.touch(now_ms)

    def forget_consumer(self, id: str) -> None:
        """Its shards are removed."""
        self._sql.exec("DELETE FROM consumer_shards WHERE consumer = ?1", id)
        self._sql.exec("DELETE FROM consumers WHERE id = ?1", id)

    def _add_consumer_shards(self, id: str) -> None:
        consumer = self.consumer(id)
        assert consumer is not None, "it was just put there"
        for position, name in enumerate(consumer.shards):
            self._sql.exec(
                "INSERT INTO consumer_shards VALUES (?1, ?2, ?3, 0) ON CONFLICT DO NOTHING", name, id, position
            )

    def _consumer_shard_name(self, consumer: str, position: int) -> str:
        known = self._sql.exec(
            "SELECT name FROM consumer_shards WHERE consumer = ?1 AND position = ?2", consumer, position
        ).first()
        # One that was made when there were more executors, or fewer, keeps its name and what it has out.
        return known[0] if known else consumer_shard_name(self._queue_id, consumer, position, self._executors)

    def consumer_shards(self, consumer: str | None = None) -> list[ConsumerShardRow]:
        """All that there ever were of the consumers that there are, or of one, also those with no share."""
        rows = self._sql.exec(
            "SELECT name, consumer, position, told FROM consumer_shards WHERE consumer = coalesce(?1, consumer)"
            " ORDER BY consumer, position",
            consumer,
        )
        return [ConsumerShardRow(*row) for row in rows]

    def consumer_shard_config(self, shard: ConsumerShardRow) -> ConsumerShardConfig | None:
        """None if the consumer was removed."""
        consumer = self.consumer(shard.consumer)
        if consumer is None:
            return None
        share = share_of(consumer.concurrency, shard.position)
        return ConsumerShardConfig(self.shard_map(), shard.consumer, shard.position, share)

    def note_consumer_shard_told(self, name: str, version: int) -> None:
        self._sql.exec("UPDATE consumer_shards SET told = ?1 WHERE name = ?2", version, name)

    # -- storage shards -----------------------------------------------------------------------------------

    def storage_shards(self, *states: ShardState) -> list[StorageShardRow]:
        """In these states, or all; the home first."""
        rows = self._sql.exec("SELECT position, name, uid, state, told FROM storage_shards ORDER BY position")
        shards = [
            StorageShardRow(position, name, uid, ShardState(state), told)
            for position, name, uid, state, told in rows
        ]
        return [shard for shard in shards if not states or shard.state in states]

    def storage_shard(self, name: str) -> StorageShardRow | None:
        return next((shard for shard in self.storage_shards() if shard.name == name), None)

    def open_shard(self, new_uid: str) -> None:
        """One more that takes messages: one that was to be closed or, if there is none, a new one."""
        self.touch()
        shards = self.storage_shards()
        closed = [shard for shard in shards if shard.state in (ShardState.CLOSING, ShardState.CLOSED)]
        if closed:
            self.set_state(closed[0].name, ShardState.OPEN)
            return
        taken = {shard.position for shard in shards}
        # The lowest that is free, for its place: they go round the executors.
        position = next(number for number in range(len(taken) + 1) if number not in taken)
        name = storage_shard_name(self._queue_id, position, self._executors)
        self._sql.exec("INSERT INTO storage_shards VALUES (?1, ?2, ?3, 0, 0, 1)", position, name, new_uid)

    def close_shard(self) -> None:
        """The last one that takes messages takes no more. Never the home."""
        last = self.storage_shards(ShardState.OPEN)[-1]
        assert last.position > 0, "the home is never closed"
        self.set_state(last.name, ShardState.CLOSING)
        self.touch()

    def set_state(self, name: str, state: ShardState) -> None:
        self._sql.exec("UPDATE storage_shards SET state = ?1 WHERE name = ?2", int(state), name)

    def storage_shard_config(self, shard: StorageShardRow, backlog_bytes_max: int) -> ShardConfig:
        """`backlog_bytes_max` is the queue's: those that take messages share it. A shard that is closing takes
        messages for as long as brokers do not know."""
        map = self.shard_map()
        if shard.state is ShardState.CLOSING:
            shards = [structs.replace(ref, open=ref.open or ref.name == shard.name) for ref in map.shards]
            map = structs.replace(map, shards=shards)
        open_count = len(self.storage_shards(ShardState.OPEN))
        return ShardConfig(map, shard.uid, backlog_bytes_max // open_count)

    def note_storage_shard_told(self, name: str, version: int) -> None:
        self._sql.exec("UPDATE storage_shards SET told = ?1 WHERE name = ?2", version, name)

    def forget_storage_shard(self, name: str) -> None:
        self._sql.exec("DELETE FROM storage_shards WHERE name = ?1", name)

    @property
    def is_told(self) -> bool:
        """Whether everybody knows everything, and nothing is left to be done."""
        version = self.version
        shards = self.storage_shards()
        return (
            self.mapped == version
            and all(shard.told == version for shard in shards)
            and all(shard.told == version for shard in self.consumer_shards())
            and all(shard.state in (ShardState.OPEN, ShardState.CLOSED) for shard in shards)
            and not self.removed_consumers()
            and not self.unpurged_shards()
            and self.wanted_settings is None
        )

    # -- purging ------------------------------------------------------------------------------------------

    def begin_purge(self, now_ms: int) -> None:
        self._sql.exec("UPDATE queue SET purged_ms = ?1", now_ms)
        self._sql.exec("UPDATE storage_shards SET purged = 0")

    def unpurged_shards(self) -> list[str]:
        return [row[0] for row in self._sql.exec("SELECT name FROM storage_shards WHERE NOT purged")]

    def note_purged(self, name: str) -> None:
        self._sql.exec("UPDATE storage_shards SET purged = 1 WHERE name = ?1", name)


def _text(settings: QueueSettings) -> str:
    return json.encode(settings).decode()
