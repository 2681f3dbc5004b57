"""What waits in a queue, or in one shard of it."""

from __future__ import annotations

from msgspec import Struct


class Backlog(Struct, frozen=True):
    """Messages that are stored and not acknowledged by every consumer, and the bytes of their bodies. `oldest_ms`:
    when the oldest of them was sent, wall time; None if there is none."""

    messages: int
    bytes: int
    oldest_ms: int | None
