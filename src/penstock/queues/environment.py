"""What the objects of this package are registered with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from penstock.base.limits import Limits


@dataclass(slots=True)
class QueueCounters:
    """What an executor's shards of one queue did since its start, in messages where nothing else is said."""

    sent: int = 0
    sent_bytes: int = 0
    deduplicated: int = 0
    #: Leased to a consumer; of these, not for the first time.
    delivered: int = 0
    redelivered: int = 0
    acknowledged: int = 0
    retried: int = 0
    leases_ended: int = 0
    #: Moved to a dead-letter queue, by reason, and deleted for want of one.
    dead: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    expired: int = 0
    purged: int = 0
    #: Batches that a handler finished, and those that it failed.
    batches: int = 0
    batches_failed: int = 0


@dataclass(slots=True)
class QueueStatistics:
    """Of one executor. `backlog`: messages and bytes by storage shard, of those in memory."""

    by_queue: dict[str, QueueCounters] = field(default_factory=dict)
    backlog: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: The name of each queue, by its id.
    names: dict[str, str] = field(default_factory=dict)

    def of(self, queue_id: str) -> QueueCounters:
        counters = self.by_queue.get(queue_id)
        if counters is None:
            counters = self.by_queue[queue_id] = QueueCounters()
        return counters


@dataclass(frozen=True, slots=True)
class QueueEnv:
    limits: Limits
    executors: int
    statistics: QueueStatistics
