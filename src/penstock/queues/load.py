"""What a storage shard takes between two heartbeats."""

from __future__ import annotations

from penstock.queues.scaling import HEARTBEAT_MS, StorageLoad


class LoadMeter:
    """Times are of a clock that never goes back."""

    def __init__(self, shard: str, now_ms: int) -> None:
        self._shard = shard
        self._since_ms = now_ms
        self._requests = self._messages = self._bytes = 0

    def add(self, messages: int, size: int, now_ms: int) -> bool:
        """Whether the next heartbeat is due."""
        self._requests += 1
        self._messages += messages
        self._bytes += size
        return now_ms - self._since_ms >= HEARTBEAT_MS

    def read(self, backlog_messages: int, backlog_bytes: int, now_ms: int) -> StorageLoad:
        """The load since the last reading."""
        seconds = max(1, now_ms - self._since_ms) / 1000
        load = StorageLoad(
            self._shard,
            self._requests / seconds,
            self._bytes / seconds,
            backlog_messages,
            backlog_bytes,
            self._messages / seconds,
        )
        self._since_ms = now_ms
        self._requests = self._messages = self._bytes = 0
        return load
