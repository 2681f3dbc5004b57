"""Notices that an executor's event loop stands still, says which code holds it up, and ends the process in the end.

One object that computes without an `await`, or blocks, stops every object and every request of its executor. From
inside the loop nothing can be done about that, so a thread looks on. It counts its own looks instead of reading a
clock: a process that was stopped and goes on has lost no look, so the time in between is held against nobody.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import structlog

from penstock.objects import Context, DurableObject

log = structlog.get_logger("penstock.server")

_LOOK_S = 1.0
#: Shorter than the time between two looks, so that a loop that runs has beaten by each of them.
_BEAT_S = 0.3
#: Standing still for so long is reported, and again after twice the time, four times, and so on. The slowest thing
#: that Penstock itself does on the loop takes some milliseconds.
_REPORT_S = 3
#: C code that does not let go of the interpreter (some regular expressions) stops the thread that looks, too. Then
#: the interpreter's own watchdog ends the process, which needs nothing of it: so much later than this one would.
_MARGIN_S = 5.0
_STACK_FRAMES_MAX = 30


@dataclass(frozen=True, slots=True)
class Place:
    """What the loop runs: whose method (None if it is no object's), and the stack, the innermost frame last."""

    object: str | None
    method: str | None
    stack: str


def place_of(frame: FrameType) -> Place:
    """Where a thread is, by its innermost frame."""
    found: tuple[DurableObject[object], str] | None = None
    step: FrameType | None = frame
    while step is not None:
        names = step.f_code.co_varnames
        owner = step.f_locals.get(names[0]) if step.f_code.co_argcount else None
        if isinstance(owner, DurableObject):
            found = owner, step.f_code.co_name
        elif found and step.f_globals.get("__name__", "").startswith("penstock.objects."):
            break  # below are those that called this object, and wait for it
        step = step.f_back
    stack = "".join(traceback.format_stack(frame, _STACK_FRAMES_MAX))
    if found is None:
        return Place(None, None, stack)
    owner, method = found
    ctx = getattr(owner, "ctx", None)  # not yet set in a constructor
    return Place(ctx.id.label if isinstance(ctx, Context) else type(owner).__name__, method, stack)


class Watchdog:
    """Watches the loop that it is made in. When that has stood still for `ends_after_s` seconds (0: never), `end`
    is called, in the watchdog's thread."""

    def __init__(self, ends_after_s: float, end: Callable[[], object]) -> None:
        self.blocked_seconds = 0
        """How long the loop has stood still since the start, counted where that was long enough to be reported."""
        self._ends_after_s = ends_after_s
        self._end = end
        self._beats = 0
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        # With this thread's context: it holds what is on each line of the log.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="watchdog", daemon=True)

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        self._beats += 1
        if not self._stopped.is_set():
            self._loop.call_later(_BEAT_S, self._beat)

    def _run(self) -> None:
        seen, still_s, report_s = self._beats, 0, _REPORT_S
        self._set_last_resort()
        while not self._stopped.wait(_LOOK_S):
            self._set_last_resort()
            if self._beats != seen:
                seen, still_s, report_s = self._beats, 0, _REPORT_S
                continue
            still_s += 1
            if still_s >= _REPORT_S:
                self.blocked_seconds += _REPORT_S if still_s == _REPORT_S else 1
            ends = 0 < self._ends_after_s <= still_s
            if still_s >= report_s or ends:
                report_s *= 2
                self._report(still_s, ends)
            if ends:
                self._end()
        faulthandler.cancel_dump_traceback_later()

    def _set_last_resort(self) -> None:
        """The interpreter's own watchdog; each look sets it anew."""
        if self._ends_after_s:
            faulthandler.dump_traceback_later(self._ends_after_s + _MARGIN_S, exit=True, file=sys.stderr)

    def _report(self, still_s: int, ends: bool) -> None:
        frame = sys._current_frames().get(self._watched)
        if frame is None:
            return
        place = place_of(frame)
        log.error(
            "executor_blocked",
            object=place.object,
            method=place.method,
            seconds=still_s,
            ends=ends,
            stack=place.stack,
        )
