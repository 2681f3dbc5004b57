"""What a queue's coordinator was told of its shards' loads, and since when. In memory alone: whoever starts anew
hears it within seconds. Times are of a clock that never goes back."""

from __future__ import annotations

from collections.abc import Collection

from penstock.queues.scaling import (
    HEARTBEAT_MS,
    QUIET_MS,
    ConsumerLoad,
    Demand,
    StorageLoad,
    could_be_fewer,
    is_too_busy,
    wanted_storage_shards,
)

#: The backlog's change is measured over this time: several heartbeats of every shard.
_TREND_MS = 4 * HEARTBEAT_MS


class StorageLoads:
    """Those of one queue's storage shards, for as long as their number does not change."""

    def __init__(self, now_ms: int) -> None:
        self._told: dict[str, tuple[StorageLoad, int]] = {}
        self._busy_since_ms: int | None = None
        self._idle_since_ms: int | None = now_ms
        #: The backlog of all, lately: when, and how many messages.
        self._trend: list[tuple[int, int]] = []

    def note(self, load: StorageLoad, now_ms: int) -> None:
        self._told[load.shard] = (load, now_ms)
        self._trend = [point for point in self._trend if now_ms - point[0] <= _TREND_MS]
        self._trend.append((now_ms, self.backlog_messages(now_ms)))

    def wanted(self, names: Collection[str], executors: int, now_ms: int) -> int:
        """How many shards should take messages, where those of `names` do."""
        heard = [load for load in self._heard(now_ms) if load.shard in names]
        busy, idle = is_too_busy(heard), could_be_fewer(heard, len(names))
        self._busy_since_ms = _since(busy, self._busy_since_ms, now_ms)
        self._idle_since_ms = _since(idle, self._idle_since_ms, now_ms)
        wanted = wanted_storage_shards(
            heard,
            len(names),
            executors,
            busy_ms=_ms_since(self._busy_since_ms, now_ms),
            idle_ms=_ms_since(self._idle_since_ms, now_ms),
        )
        if wanted != len(names):
            # Whether that was right shows in what comes now.
            self._busy_since_ms = None
            self._idle_since_ms = now_ms
        return wanted

    def backlog_messages(self, now_ms: int) -> int:
        return sum(load.backlog_messages for load in self._heard(now_ms))

    def backlog_change_per_s(self, now_ms: int) -> float:
        """0 as long as nothing is known."""
        points = [point for point in self._trend if now_ms - point[0] <= _TREND_MS]
        if len(points) < 2 or points[-1][0] == points[0][0]:
            return 0.0
        return (points[-1][1] - points[0][1]) * 1000 / (points[-1][0] - points[0][0])

    def forget(self, shard: str) -> None:
        self._told.pop(shard, None)
        self._trend.clear()

    def _heard(self, now_ms: int) -> list[StorageLoad]:
        return [load for load, at_ms in self._told.values() if now_ms - at_ms <= QUIET_MS]


class ConsumerLoads:
    """Those of one consumer's shards, since their lanes were last changed."""

    def __init__(self, now_ms: int) -> None:
        self._since_ms = now_ms
        self._told: dict[str, tuple[ConsumerLoad, int]] = {}

    def note(self, load: ConsumerLoad, now_ms: int) -> None:
        self._told[load.shard] = (load, now_ms)

    def demand(self, storage: StorageLoads, batch_size: int, now_ms: int) -> Demand:
        heard = [load for load, at_ms in self._told.values() if now_ms - at_ms <= QUIET_MS]
        return Demand(
            backlog_messages=storage.backlog_messages(now_ms),
            backlog_change_per_s=storage.backlog_change_per_s(now_ms),
            batch_size=batch_size,
            busy=sum(load.busy for load in heard),
            batches=sum(load.batches for load in heard),
            failed=sum(load.failed for load in heard),
            settled_ms=now_ms - self._since_ms,
        )


def _since(holds: bool, since_ms: int | None, now_ms: int) -> int | None:
    if not holds:
        return None
    return now_ms if since_ms is None else since_ms


def _ms_since(since_ms: int | None, now_ms: int) -> int:
    """For how long something holds; -1 if it does not."""
    return -1 if since_ms is None else now_ms - since_ms
