"""An asyncio event loop on virtual time.

Nothing is waited for: when no callback is ready, the clock jumps to the next timer. So an hour of a system's
life takes as long as its callbacks take, and the order in which they run depends on nothing outside.

Order inside asyncio depends on hashes in one place that matters: a `TaskGroup` keeps its tasks in a `set` and
cancels them in the set's order, which for plain tasks is the order of their memory addresses. Tasks of this
loop hash to their number instead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import Any, NoReturn, TypeVar

from penstock.testing.sim.crash import Crashed

T = TypeVar("T")

#: Enough for minutes of a busy simulated system; a livelock gets there in a few seconds of real time.
STEPS_MAX_DEFAULT = 1_000_000


class Deadlock(Exception):
    """Every task waits, and no timer is set that could wake one."""


class Livelock(Exception):
    """The loop took more turns than it was allowed: probably a task that spins without time passing."""


class VirtualTask(asyncio.Task[Any]):
    """A task that hashes to its number, so that sets of tasks have an order that a seed repeats."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **kwargs: Any) -> None:
        # The base class hashes the task already (it enters the set of all tasks).
        self.number = number
        kwargs["name"] = kwargs.get("name") or f"task-{number}"
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """Tasks, futures and timers; no sockets, no threads, no signals.

    `asyncio.BaseEventLoop` leaves waiting to a selector, `select(timeout)`. This one is its own selector, and
    waits by adding to its clock.
    """

    def __init__(self, *, steps_max: int = STEPS_MAX_DEFAULT) -> None:
        super().__init__()
        self._selector = self
        self._now = 0.0
        self._steps_max = steps_max
        #: Turns of the loop so far.
        self.steps = 0
        self._numbers = count(1)
        self._unhandled: BaseException | None = None
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._on_unhandled)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    # -- what BaseEventLoop asks of a selector -------------------------------------------------------------

    def select(self, timeout: float | None) -> tuple[()]:
        """One turn begins. `timeout` is 0 when callbacks are ready, None when there is not even a timer."""
        if self._unhandled is not None:
            error, self._unhandled = self._unhandled, None
            raise error
        self.steps += 1
        if self.steps > self._steps_max:
            raise Livelock(f"{self._steps_max} turns of the loop, the clock at {self._now:.3f} s:{self._waiting()}")
        if timeout is None:
            raise Deadlock(f"Nothing is ready and no timer is set, at {self._now:.3f} s:{self._waiting()}")
        if timeout > 0:
            # Not `+= timeout`: the sum could fall short of the timer by a rounding error.
            self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]
        return ()

    def _process_events(self, events: tuple[()]) -> None:
        pass

    def _write_to_self(self) -> None:
        # Called to wake a loop that sleeps in `select`; this one never does.
        pass

    # -- tasks ---------------------------------------------------------------------------------------------

    def _make_task(
        self,
        _loop: asyncio.AbstractEventLoop,
        coro: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
        **kwargs: Any,
    ) -> VirtualTask:
        assert asyncio.iscoroutine(coro), coro
        return VirtualTask(coro, loop=self, number=next(self._numbers), **kwargs)

    def unfinished(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended, oldest first."""
        return sorted(asyncio.all_tasks(self), key=hash)

    def _waiting(self) -> str:
        return "".join(f"\n  {task!r}" for task in self.unfinished()[:20])

    def _on_unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A task that was abandoned without an exception is what a killed host leaves behind, and a crash that
        # nobody caught is how a host dies: neither is an error of the code under test.
        error = context.get("exception")
        if error is not None and not isinstance(error, Crashed):
            self._unhandled = self._unhandled or error

    # -- what a simulation must not do -----------------------------------------------------------------------

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("A simulation has no threads: take an Offload (testing/sim/offload.py).")

    def cancel_unfinished(self) -> None:
        """Cancel what is left and let it end, as `asyncio.run` does. What refuses to end is abandoned."""
        for task in self.unfinished():
            task.cancel()
        left = asyncio.gather(*self.unfinished(), return_exceptions=True) if self.unfinished() else None
        if left is not None:
            with contextlib.suppress(Deadlock, Livelock, asyncio.CancelledError, Crashed):
                self.run_until_complete(left)


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], *, steps_max: int = STEPS_MAX_DEFAULT) -> T:
    """Run `main(loop)` on a loop of its own and give what it returns.

    Raises `Deadlock` and `Livelock`, and the first exception that a callback raised and nobody handled.
    """
    loop = VirtualLoop(steps_max=steps_max)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.steps = 0  # a run that spent its turns must still be able to end
        loop.cancel_unfinished()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
