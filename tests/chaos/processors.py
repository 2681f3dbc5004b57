"""How much of the machine others take, so that a time limit means the same on a busy machine as on a quiet one.

A limit of 2 s is about a machine that is there for the server (and for its load). When other programs, or other
guests of the same host, have a third of the processors, two thirds are left, and the same work takes half as
long again. So the limit is stretched by just that, and not at all where nobody else computes. Repeating what was
too slow, or a generous limit for all, would let a slow recovery through.

Only Linux tells; elsewhere the limit stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

#: Beyond this share nothing can be said about us, so the limit grows no further.
FOREIGN_SHARE_MAX = 0.8

_STAT = Path("/proc/stat")


def stretched(limit_s: float, foreign_share: float) -> float:
    return limit_s / (1 - min(max(foreign_share, 0.0), FOREIGN_SHARE_MAX))


class Processors:
    """Watches from its construction on. `ours` are processes that live by then."""

    def __init__(self, ours: Iterable[int]) -> None:
        self._before = {pid: _ticks_of(pid) for pid in ours}
        self._total, self._busy = _ticks_of_machine()

    def foreign_share(self, ours: Iterable[int]) -> float:
        """The share of all processors' time since then that went to others than `ours`, 0 to 1. A process of ours
        that has ended meanwhile counts as another's."""
        total, busy = _ticks_of_machine()
        mine = sum(_ticks_of(pid) - self._before.get(pid, 0) for pid in ours)
        return max(0, busy - self._busy - mine) / max(1, total - self._total)


def _ticks_of_machine() -> tuple[int, int]:
    """All processors' time, and the part of it in which somebody's program ran, here or beside us on the host."""
    if not _STAT.exists():
        return 0, 0
    user, nice, system, idle, iowait, interrupts, soft, steal = map(int, _STAT.read_text().split()[1:9])
    busy = user + nice + system + steal
    return busy + idle + iowait + interrupts + soft, busy


def _ticks_of(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()  # the name before it may have spaces
    return int(fields[11]) + int(fields[12])
