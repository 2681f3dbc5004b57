"""How many shards a pipeline needs, by their load. Pure.

More shards than one per executor take records no faster, since an executor has one event loop; but each delivers
its files by itself, one after the other, so a pipeline that makes files more slowly than records come gets more of
them.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from penstock.base.limits import MIB, SHARDS_MAX

#: A shard says how busy it is about this often, while it takes records.
HEARTBEAT_MS = 10_000
#: A shard that said nothing for this time has had nothing to do.
QUIET_MS = 3 * HEARTBEAT_MS

#: One shard makes and uploads files of about this many bytes a second to a bucket some milliseconds away (gzip
#: alone does 100 to 200 MB/s, a file that is being sent does little else): above it its backlog grows.
SHARD_BYTES_PER_S = 24 * MIB
#: What an event loop of its own takes of requests with one record, and so more than one shard among others can.
SHARD_REQUESTS_PER_S = 10_000
#: A backlog that this many seconds of input would not make is not a burst.
BACKLOG_S = 60
#: Shards are taken away when the rest would be this busy at the most: far from where one would be added again.
SHRINK_BELOW = 0.3


class ShardLoad(Struct, frozen=True):
    """What a shard took per second since its last heartbeat, and its backlog: bytes that are in no file yet, of
    those that were due."""

    shard: str
    requests_per_s: float
    bytes_per_s: float
    backlog_bytes: int


class LoadMeter:
    """Counts what a shard takes between two heartbeats. Times are of a clock that never goes back."""

    def __init__(self, shard: str, now_ms: int) -> None:
        self._shard = shard
        self._since_ms = now_ms
        self._requests = self._bytes = 0
        self._is_due = False

    def add(self, size: int, now_ms: int) -> bool:
        """Whether the next heartbeat is due, which is said once: many requests come before the meter is read."""
        self._requests += 1
        self._bytes += size
        if self._is_due or now_ms - self._since_ms < HEARTBEAT_MS:
            return False
        self._is_due = True
        return True

    def read(self, backlog_bytes: int, now_ms: int) -> ShardLoad:
        """The load since the last reading."""
        seconds = max(1, now_ms - self._since_ms) / 1000
        load = ShardLoad(self._shard, self._requests / seconds, self._bytes / seconds, backlog_bytes)
        self._since_ms = now_ms
        self._requests = self._bytes = 0
        self._is_due = False
        return load


def wanted_shards(loads: Sequence[tuple[ShardLoad, int]], current: int, fewest: int, now_ms: int) -> int:
    """The number of shards that is right for these loads, each with when it was told. One more at a time, and one
    fewer: the next heartbeats show what it changed, and whoever changes it forgets those before. Never fewer than
    `fewest`, unless there are fewer already."""
    heard = [load for load, at_ms in loads if now_ms - at_ms <= QUIET_MS]
    busy = sum(map(_utilisation, heard))
    if current < SHARDS_MAX and busy > current:
        return current + 1
    # After a change everybody has to be heard again before anything is taken away.
    if current > fewest and len(heard) >= current and busy < SHRINK_BELOW * (current - 1):
        return current - 1
    return current


def _utilisation(load: ShardLoad) -> float:
    """1.0 is as much as one shard can do."""
    behind = load.backlog_bytes > max(load.bytes_per_s, MIB) * BACKLOG_S
    rate = max(load.bytes_per_s / SHARD_BYTES_PER_S, load.requests_per_s / SHARD_REQUESTS_PER_S)
    return max(rate, 1.5 if behind else 0.0)
