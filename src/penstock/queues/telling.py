"""What a queue's coordinator has decided, told to those who must know it.

The order is such that nobody ever needs to know what is not there yet:

1. the shards of consumers that were removed end, so that they ask for nothing that storage shards do not know;
2. storage shards hear the new map; one that is to take no more messages goes on taking them;
3. consumer shards hear it: what they ask storage shards for is known there;
4. brokers can see it, in the KV: each shard that it calls open takes messages;
5. now nobody new sends to the shards that are to be closed: they are;
6. shards that have given away all they had are removed: no map names them.

Each step may be done again, and is after a crash. One telling is under way at a time.
"""

from __future__ import annotations

import asyncio

import structlog
from msgspec import msgpack

from penstock.base.errors import Conflict
from penstock.base.limits import Limits
from penstock.objects import Context, Stub
from penstock.queues.queue_tables import QueueTables, ShardState
from penstock.queues.registry import QUEUE_REGISTRY
from penstock.queues.shard_map import key_of

log = structlog.get_logger("penstock.queues")

#: The object that the map is put into (`kv/`).
_KV_CLASS, _KV_NAME = "KeyValues", "kv"


class Telling:
    def __init__(self, ctx: Context, tables: QueueTables, limits: Limits) -> None:
        self._ctx = ctx
        self._tables = tables
        self._limits = limits
        self._turn = asyncio.Lock()

    async def finish(self) -> None:
        """Return when everybody knows everything. Raises what a shard raises that could not be told."""
        async with self._turn:
            tables = self._tables
            if tables.is_deleted:
                await self._remove()
                return
            if not tables.exists:
                return
            try:
                await self._take_name()
            except Conflict as error:
                log.info("queue_not_renamed", queue=self._ctx.name, error=error.message)
            # What is decided meanwhile is told in the next round. (A queue that is deleted meanwhile has a
            # telling of its own waiting.)
            while tables.exists and not tables.is_told:
                await self._purge()
                await self._tell_all()

    async def take_name(self) -> None:
        """Let the settings that wait for their name be the queue's. Raises `Conflict` if another queue has the
        name; they are dropped then."""
        async with self._turn:
            await self._take_name()

    async def _take_name(self) -> None:
        tables = self._tables
        while tables.exists and (wanted := tables.wanted_settings) is not None:
            try:
                await self._registry().rename(self._ctx.name, wanted.name)
            except Conflict:
                if tables.wanted_settings == wanted:
                    tables.store_wanted(None)
                raise
            if tables.exists and tables.wanted_settings == wanted:
                tables.store_settings(wanted, self._ctx.clock.now_ms())

    async def _tell_all(self) -> None:
        tables, version = self._tables, self._tables.version
        await self._remove_consumers()
        await self._tell_storage_shards()
        await self._tell_consumer_shards()
        if tables.version != version or not tables.exists:
            return
        if tables.mapped < version:
            map = tables.shard_map()
            await self._kv().put(key_of(map.queue_id), msgpack.encode(map))
            tables.note_mapped(version)
        for shard in tables.storage_shards(ShardState.CLOSING):
            if shard.told == version == tables.version:
                tables.set_state(shard.name, ShardState.CLOSED)
                tables.note_storage_shard_told(shard.name, 0)
        await self._tell_storage_shards()
        await self._remove_empty_shards()

    async def _remove_consumers(self) -> None:
        for consumer in self._tables.removed_consumers():
            for shard in self._tables.consumer_shards(consumer):
                await self._consumer_shard(shard.name).remove()
            if consumer in self._tables.removed_consumers():  # and was not added again meanwhile
                self._tables.forget_consumer(consumer)

    async def _tell_storage_shards(self) -> None:
        tables = self._tables
        for shard in tables.storage_shards():
            if shard.state is ShardState.EMPTY or shard.told == tables.version:
                continue
            config = tables.storage_shard_config(shard, self._limits.queue_backlog_bytes_max)
            await self._storage_shard(shard.name).configure(config)
            tables.note_storage_shard_told(shard.name, config.map.version)

    async def _tell_consumer_shards(self) -> None:
        tables = self._tables
        for shard in tables.consumer_shards():
            if shard.told == tables.version:
                continue
            config = tables.consumer_shard_config(shard)
            if config is not None:
                await self._consumer_shard(shard.name).configure(config)
                tables.note_consumer_shard_told(shard.name, config.map.version)

    async def _purge(self) -> None:
        for name in self._tables.unpurged_shards():
            asked_ms = self._tables.purged_ms
            await self._storage_shard(name).purge()
            if self._tables.purged_ms == asked_ms:
                self._tables.note_purged(name)

    async def _remove_empty_shards(self) -> None:
        for shard in self._tables.storage_shards(ShardState.EMPTY):
            if self._tables.mapped == self._tables.version:
                await self._storage_shard(shard.name).remove()
                self._tables.forget_storage_shard(shard.name)

    async def _remove(self) -> None:
        """Leave nothing of a deleted queue. Its name is free last, so that who gets it meets nothing of this
        one."""
        await self._kv().delete(key_of(self._ctx.name))
        for consumer_shard in self._tables.consumer_shards():
            await self._consumer_shard(consumer_shard.name).remove()
        for storage_shard in self._tables.storage_shards():
            await self._storage_shard(storage_shard.name).remove()
        await self._registry().release(self._ctx.name)
        self._ctx.storage.delete_all()
        self._tables.make()
        log.info("queue_removed", queue=self._ctx.name)

    def _kv(self) -> Stub:
        return self._ctx.namespace(_KV_CLASS).get_by_name(_KV_NAME)

    def _registry(self) -> Stub:
        return self._ctx.namespace("QueueRegistry").get_by_name(QUEUE_REGISTRY)

    def _storage_shard(self, name: str) -> Stub:
        return self._ctx.namespace("StorageShard").get_by_name(name)

    def _consumer_shard(self, name: str) -> Stub:
        return self._ctx.namespace("ConsumerShard").get_by_name(name)
