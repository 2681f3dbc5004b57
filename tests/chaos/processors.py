"""How long we waited for processors that others had, so that a time limit means the same on a busy machine.

A limit of 2 s is about a machine that is there for the server and for its load. What a process spends in the run
queue, ready to go on, because some other program or another guest of the host has the processor, is not the
server's time. The kernel counts it (`/proc/<pid>/schedstat`). Time that a process sleeps, waits for a disk or a
lock, or computes is the server's own, on any machine.

Rejected: to repeat what was too slow, or to give a generous limit to all, which lets a slow recovery through; and
to stretch the limit by the share of the processors that others take, which does so too (tried: an executor that
slept for 1.8 s in its start passed beside other programs).

Only Linux tells; elsewhere the limit stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process, in seconds: computed by all its threads, and waited for a processor by its first."""

    ran_s: float = 0.0
    waited_s: float = 0.0

    def since(self, before: Usage) -> Usage:
        return Usage(self.ran_s - before.ran_s, self.waited_s - before.waited_s)


def waited_for_others_s(
    waits: Iterable[float], ran_s: float, busy_s: float, stolen_s: float, processors: int
) -> float:
    """`waits`: of the processes that had to go on one after the other. We too make each other wait, so that others
    answer for their part of what was computed: all of `busy_s` but our `ran_s`. `stolen_s`: what the host took."""
    part = min(1.0, max(0.0, busy_s - ran_s) / busy_s) if busy_s else 0.0
    return sum(waits) * part + stolen_s / processors


class Processors:
    """Watches from its construction on: this process, a supervisor and its executors."""

    def __init__(self, tree: list[int]) -> None:
        self._before = {pid: _usage(pid) for pid in [os.getpid(), *tree]}
        self._busy_s, self._stolen_s = _machine()

    def waited_for_others_s(self, tree: list[int]) -> float:
        """Until now. A recovery is the work of one process after the other: the supervisor starts, then the
        executors beside each other, then we must notice."""
        busy_s, stolen_s = _machine()
        used = {pid: _usage(pid).since(self._before.get(pid, Usage())) for pid in [os.getpid(), *tree]}
        supervisor, *executors = tree
        new = [used[pid].waited_s for pid in executors if pid not in self._before]
        return waited_for_others_s(
            [used[os.getpid()].waited_s, used[supervisor].waited_s, max(new, default=0.0)],
            sum(usage.ran_s for usage in used.values()),
            busy_s - self._busy_s,
            stolen_s - self._stolen_s,
            os.cpu_count() or 1,
        )


def _machine() -> tuple[float, float]:
    """Seconds that the processors spent on programs, and that the host gave to other guests."""
    if not _STAT.exists():
        return 0.0, 0.0
    user, nice, system, _idle, _iowait, _interrupts, _soft, steal = map(int, _STAT.read_text().split()[1:9])
    return (user + nice + system) / _TICKS_PER_S, steal / _TICKS_PER_S


def _usage(pid: int) -> Usage:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        schedstat = Path(f"/proc/{pid}/schedstat").read_text()
    except OSError:
        return Usage()
    fields = stat.rpartition(")")[2].split()  # the name before it may have spaces
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(schedstat.split()[1]) / 1e9)
