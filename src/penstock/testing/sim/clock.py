"""A machine's clock on virtual time, which a fault may set wrong."""

from __future__ import annotations

import asyncio

from penstock.testing.sim.loop import VirtualLoop

#: 2025-01-01T00:00:00Z: a year's first second, so that every part of a file name made from it is known.
START_MS = 1_735_689_600_000


class SimClock:
    """Implements `Clock`. One per machine: its executors see the same wall clock, right or wrong."""

    def __init__(self, loop: VirtualLoop, *, start_ms: int = START_MS) -> None:
        self._loop = loop
        self._wall_start_ms = start_ms

    def now_ms(self) -> int:
        return self._wall_start_ms + self.elapsed_ms()

    def elapsed_ms(self) -> int:
        # Rounded, not cut: a sum of milliseconds kept in floating-point seconds may end just below the whole.
        return round(self._loop.time() * 1000)

    async def sleep_ms(self, ms: int) -> None:
        assert ms >= 0, ms
        woken: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(ms / 1000, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    def jump_ms(self, ms: int) -> None:
        """Set the wall clock `ms` forward, or back if negative. Sleepers do not notice."""
        self._wall_start_ms += ms


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
