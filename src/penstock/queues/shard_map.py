"""The shard map of a queue: what brokers must know to send, pull and acknowledge. Pure.

The coordinator writes it to the KV under `key_of(queue id)`; brokers read their cache of that.
"""

from __future__ import annotations

from msgspec import Struct

from penstock.objects.placement import name_owned_by
from penstock.queues.settings import Consumer, QueueSettings

KEY_PREFIX = "queues/"


class ShardRef(Struct, frozen=True):
    """A storage shard. `open`: it takes messages; else it only gives away those it has. `uid`: 16 hexadecimal
    digits, with which its messages' ids begin; no two shards of the instance have the same."""

    name: str
    uid: str
    open: bool


class ShardMap(Struct, frozen=True):
    """`version` rises with every change. The first shard is the queue's *home*: it is never taken away, and takes
    all messages that must be recognised when they come again."""

    queue_id: str
    account: str
    version: int
    settings: QueueSettings
    shards: list[ShardRef]
    consumers: list[Consumer]


class ShardConfig(Struct, frozen=True):
    """What a storage shard is told: the map, and which of its shards it is."""

    map: ShardMap
    uid: str
    #: Bytes of messages that this shard may hold.
    backlog_bytes_max: int


class ConsumerShardConfig(Struct, frozen=True):
    """What a consumer shard is told: the map, whose shard it is and which. `concurrency`: batches that it may have
    out at once, its share of the consumer's; with 0 it ends what it has out and takes no more."""

    map: ShardMap
    consumer_id: str
    index: int
    concurrency: int


def key_of(queue_id: str) -> str:
    return KEY_PREFIX + queue_id


def storage_shard_name(queue_id: str, index: int, executors: int) -> str:
    """The name of storage shard `index`, such that they land on one executor after the other."""
    return name_owned_by("StorageShard", f"{queue_id}/{index}", index % executors, executors)


def consumer_shard_name(queue_id: str, consumer_id: str, index: int, executors: int) -> str:
    return name_owned_by("ConsumerShard", f"{queue_id}/{consumer_id}/{index}", index % executors, executors)
