"""Time, as a port.

Two kinds of time are kept apart. *Wall time* (`now_ms`, UTC) is for what people and file names see: it may
jump in either direction. *Loop time* (the event loop's own monotonic clock) is for waiting: it never goes
back. Code that measures how long something lasted uses loop time; code that names a moment uses wall time.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from. The simulator has one of its own (testing/sim)."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC. May jump, also backwards."""
        ...

    def elapsed_ms(self) -> int:
        """Milliseconds since an arbitrary start; never goes back."""
        ...

    async def sleep_ms(self, ms: int) -> None:
        """Suspend the calling task for `ms` milliseconds (>= 0) of loop time."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def elapsed_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    async def sleep_ms(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000)


def rfc3339(at_ms: int) -> str:
    """A moment of wall time in words, to the millisecond: 2026-11-23T14:05:06.789Z. (RFC 3339)"""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
