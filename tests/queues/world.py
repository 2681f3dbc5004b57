"""A storage shard in a small world, with what it talks to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.objects.world import World, run

from penstock.base.limits import Limits
from penstock.objects import Stub
from penstock.queues.environment import QueueEnv, QueueStatistics
from penstock.queues.message import ContentType, Message, NewMessage, decode_messages, encode_new
from penstock.queues.settings import Consumer, ConsumerSettings, QueueSettings
from penstock.queues.shard_map import ShardConfig, ShardMap, ShardRef
from penstock.queues.storage_shard import Lease, StorageShard

T = TypeVar("T")

SHARD = "shard"
UID = "00000000000000aa"
BACKLOG_BYTES_MAX = 10_000_000


def queue_env(executors: int = 1) -> QueueEnv:
    return QueueEnv(Limits(), executors, QueueStatistics())


def pull_settings(**more: Any) -> ConsumerSettings:
    return ConsumerSettings(**{"type": "http_pull", "max_wait_time_ms": 0, **more})


def worker_settings(**more: Any) -> ConsumerSettings:
    return ConsumerSettings(**{"type": "worker", "script": "app", **more})


def shard_map(
    *consumers: Consumer, version: int = 1, queue_id: str = "q" * 32, open: bool = True, **settings: Any
) -> ShardMap:
    return ShardMap(
        queue_id=queue_id,
        account="account",
        version=version,
        settings=QueueSettings(**{"name": "orders", **settings}),
        shards=[ShardRef(SHARD, UID, open)],
        consumers=list(consumers),
    )


def consumer(id: str, settings: ConsumerSettings | None = None, *shards: str) -> Consumer:
    return Consumer(id, settings or pull_settings(), 0, 1, list(shards))


@dataclass
class Shard:
    """A storage shard as a caller sees it."""

    world: World
    stub: Stub
    map: ShardMap

    async def configure(self, map: ShardMap) -> None:
        self.map = map
        await self.stub.configure(ShardConfig(map, UID, BACKLOG_BYTES_MAX))

    async def send(self, *bodies: str, delay_ms: int | None = None, dedup_id: str = "") -> int:
        batch = [NewMessage(ContentType.TEXT, body.encode(), delay_ms, dedup_id) for body in bodies]
        return (await self.stub.append(encode_new(batch), self.map.version)).stored

    async def lease(
        self, consumer: str = "c", limit: int = 10, lease_ms: int = 30_000, wait_ms: int = 0, full: bool = False
    ) -> tuple[int, list[Message]]:
        lease: Lease = await self.stub.lease(consumer, "", limit, lease_ms, wait_ms, full)
        messages = decode_messages(lease.messages)
        assert len(messages) == lease.count
        return lease.lease, messages

    async def bodies(self, consumer: str = "c", limit: int = 10, **more: Any) -> list[str]:
        return [message.body.decode() for message in (await self.lease(consumer, limit, **more))[1]]


def run_shard(main: Callable[[Shard], Awaitable[T]], map: ShardMap | None = None, *classes: type[Any]) -> T:
    """Run `main` with a shard that has this map."""

    async def live(world: World) -> T:
        shard = Shard(world, world.stub(StorageShard, SHARD), map or shard_map(consumer("c")))
        await shard.configure(shard.map)
        return await main(shard)

    return run(live, StorageShard, *classes, env=queue_env())
