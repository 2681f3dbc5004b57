"""How many storage shards a queue needs, and how many batches at once each of its consumers, by their load. Pure.

Both go up within seconds and come down within minutes: too little costs latency at once, too much costs next to
nothing for a while. What was changed has to be seen in the loads before anything is changed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from msgspec import Struct

from penstock.base.limits import MIB

#: Shards say how busy they are about this often, while they have work.
HEARTBEAT_MS = 2_000
#: A shard that said nothing for this time has had nothing to do.
QUIET_MS = 3 * HEARTBEAT_MS

#: From so much on one storage shard, others on other executors are worth having: a fifth to a tenth of what an
#: event loop can take, so that the queue is spread before sending becomes slow.
SHARD_REQUESTS_PER_S = 1_000
SHARD_MESSAGES_PER_S = 2_000
SHARD_BYTES_PER_S = 8 * MIB
#: It has to be so busy for two heartbeats: a single burst is over before another shard is of use.
BUSY_MS = HEARTBEAT_MS
#: A storage shard is closed when the rest would be this busy at the most, for this long: half of where one would be
#: added again, so that nothing flaps, and long enough to outlast the pause between two waves.
SHRINK_BELOW = 0.5
SHRINK_AFTER_MS = 60_000

#: Batches at once of a consumer that nothing is known of: enough to hide a handler's own waiting, and few enough
#: that one which fails does no harm.
CONCURRENCY_AT_FIRST = 4
#: A consumer shard looks after so many batches at once: that many leases and answers cost its event loop a few
#: per cent.
BATCHES_PER_SHARD = 64
#: All lanes are busy from this share on: lanes are empty for the moment between two batches.
ALL_BUSY = 0.9
#: A backlog that will be gone within this time at its present speed needs no more lanes.
DRAINED_SOON_S = 10
#: From this share of failed batches on there are to be fewer at once; from the lower one on, not more. So few
#: batches say nothing.
FAILING = 0.5
DOUBTFUL = 0.1
BATCHES_JUDGED_MIN = 4
#: Below this share of busy lanes there are too many: twice the lanes after a doubling that was needed are busier.
IDLE = 0.4
#: How long a number of batches at once is looked at before it is raised or, because of failures, lowered; and
#: before it is lowered because there is too little to do.
RAISE_AFTER_MS = HEARTBEAT_MS
LOWER_AFTER_MS = 5 * HEARTBEAT_MS


class StorageLoad(Struct, frozen=True):
    """What a storage shard took per second since its last heartbeat, and what it holds that is not acknowledged by
    every consumer."""

    shard: str
    requests_per_s: float
    bytes_per_s: float
    backlog_messages: int
    backlog_bytes: int
    messages_per_s: float = 0.0


class ConsumerLoad(Struct, frozen=True):
    """What a consumer shard did since its last heartbeat. `busy`: how many batches were out at once, on average.
    `failed`: those of the `batches` that ended which a handler failed by an error, its silence or its death; that
    it asked to retry messages is no failure."""

    consumer: str
    shard: str
    busy: float
    batches: int
    failed: int


class Demand(Struct, frozen=True):
    """What is known of a consumer, of all its shards together. `backlog_change_per_s`: messages; negative where it
    shrinks. `busy`: batches out at once, on average. `settled_ms`: how long the number of lanes is what it is."""

    backlog_messages: int
    backlog_change_per_s: float
    batch_size: int
    busy: float
    batches: int
    failed: int
    settled_ms: int


def utilisation(load: StorageLoad) -> float:
    """1.0 is where another storage shard would be of use."""
    return max(
        load.requests_per_s / SHARD_REQUESTS_PER_S,
        load.messages_per_s / SHARD_MESSAGES_PER_S,
        load.bytes_per_s / SHARD_BYTES_PER_S,
    )


def wanted_storage_shards(
    loads: Sequence[StorageLoad], current: int, executors: int, *, busy_ms: int, idle_ms: int
) -> int:
    """How many storage shards should take messages: from 1 to one per executor, since several on one event loop
    take no more than one. `loads`: of those that did anything lately. `busy_ms`: for how long one of them has been
    too busy; `idle_ms`: for how long all of them have had too little to do (`could_be_fewer`)."""
    if busy_ms >= BUSY_MS:
        needed = ceil(sum(map(utilisation, loads)))
        return max(current, min(executors, max(current + 1, needed)))
    if current > 1 and idle_ms >= SHRINK_AFTER_MS:
        return current - 1
    return current


def is_too_busy(loads: Sequence[StorageLoad]) -> bool:
    return any(utilisation(load) > 1 for load in loads)


def could_be_fewer(loads: Sequence[StorageLoad], current: int) -> bool:
    """Whether one storage shard less could bear these loads with ease."""
    return current > 1 and sum(map(utilisation, loads)) < SHRINK_BELOW * (current - 1)


def first_concurrency(ceiling: int) -> int:
    return min(CONCURRENCY_AT_FIRST, ceiling)


def concurrency_ceiling(max_concurrency: int | None, limit: int) -> int:
    """The most batches at once that a consumer's settings and the operator's limit allow."""
    return limit if max_concurrency is None else min(max_concurrency, limit)


def wanted_concurrency(demand: Demand, current: int, ceiling: int) -> int:
    """How many batches a consumer should have out at once, from 1 to `ceiling`."""
    if current > ceiling:
        return ceiling
    failing = demand.failed / demand.batches if demand.batches >= BATCHES_JUDGED_MIN else 0.0
    if demand.settled_ms < RAISE_AFTER_MS:
        return current
    if failing >= FAILING:
        return max(1, current // 2)
    if failing < DOUBTFUL and _falls_behind(demand, current):
        return min(ceiling, current * 2)
    fewest = first_concurrency(ceiling)
    if current > fewest and demand.settled_ms >= LOWER_AFTER_MS and demand.busy < IDLE * current:
        return max(fewest, current - max(1, current // 8))
    return current


def _falls_behind(demand: Demand, current: int) -> bool:
    """Whether all lanes are busy, more waits than they would take in their next turn, and it is not about to be
    gone."""
    waiting = demand.backlog_messages - demand.busy * demand.batch_size
    if demand.busy < ALL_BUSY * current or waiting <= current * demand.batch_size:
        return False
    return waiting + demand.backlog_change_per_s * DRAINED_SOON_S > 0


def consumer_shard_count(concurrency: int) -> int:
    return max(1, ceil(concurrency / BATCHES_PER_SHARD))


def share_of(concurrency: int, index: int) -> int:
    """Batches at once of consumer shard `index`. Each is filled up before the next has any, so that a growing
    concurrency takes nothing from a shard which still has its batches out: their sum never exceeds the whole."""
    return max(0, min(BATCHES_PER_SHARD, concurrency - index * BATCHES_PER_SHARD))
