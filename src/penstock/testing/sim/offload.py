"""Work beside the loop, on virtual time: done in line, at a moment that is drawn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from penstock.base.rng import Rng
from penstock.storage.offload import OffloadLane
from penstock.testing.sim.crash import Crashed
from penstock.testing.sim.loop import VirtualLoop

T = TypeVar("T")

#: As many at once as `Threads` has threads.
_WIDTH: dict[OffloadLane, int] = {"sync": 1, "database": 1, "bulk": 2}

_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class SimOffload:
    """Implements `Offload` for one host's life. Each piece of work takes a delay drawn from `delay_ms`, at whose
    end it happens all at once."""

    def __init__(self, loop: VirtualLoop, rng: Rng, *, delay_ms: tuple[float, float] = (0.1, 2.0)) -> None:
        self._loop = loop
        self._rng = rng
        #: Shortest and longest duration of a piece of work. May be changed at any time: a slow disk.
        self.delay_ms = delay_ms
        self._dead = False
        self._waiting: dict[OffloadLane, deque[_Job]] = {lane: deque() for lane in _WIDTH}
        self._running: dict[OffloadLane, int] = dict.fromkeys(_WIDTH, 0)

    async def run(self, lane: OffloadLane, work: Callable[[], T]) -> T:
        # As with threads, the work goes on when its caller is cancelled: it hangs on the loop, not on the caller.
        done: asyncio.Future[T] = self._loop.create_future()
        self._waiting[lane].append((work, done))
        self._start(lane)
        return await done

    def kill(self) -> None:
        """The host died: what has not happened never will, and nobody who waits is told."""
        self._dead = True

    def _start(self, lane: OffloadLane) -> None:
        while self._waiting[lane] and self._running[lane] < _WIDTH[lane] and not self._dead:
            self._running[lane] += 1
            job = self._waiting[lane].popleft()
            self._loop.call_later(self._rng.uniform(*self.delay_ms) / 1000, partial(self._finish, lane, job))

    def _finish(self, lane: OffloadLane, job: _Job) -> None:
        if self._dead:
            return
        work, done = job
        result: Any = None
        failure: Exception | None = None
        try:
            result = work()
        except Crashed:
            self._dead = True
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            failure = error
        self._running[lane] -= 1
        self._start(lane)
        # Looked at again: the host may have died in the work without an exception that says so (SQLite turns it
        # into an I/O error), and then the answer must not get out.
        if self._dead or done.done():
            return
        if failure is not None:
            done.set_exception(failure)
        else:
            done.set_result(result)
