"""What to do when an executor ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

#: The data directory is not there any more (sysexits.h: EX_NOINPUT). No start can succeed.
EXIT_DATA_GONE = 66
#: An executor exits with this when a disk refused to make data durable (sysexits.h: EX_IOERR). Starting it again
#: would trust that disk again, so the whole server stops and a person looks.
EXIT_DISK = 74
#: An executor could not start, but may some time later, without anybody's help: the disk was full (sysexits.h:
#: EX_TEMPFAIL). It is started again for ever.
EXIT_NOT_NOW = 75
#: An executor whose event loop stood still for too long (`server/watchdog.py`). It is started again.
EXIT_BLOCKED = 76
#: A start that fails again and again (sysexits.h: EX_SOFTWARE).
EXIT_START = 70

#: An executor that lived this long had started well: its end is news, not a pattern.
_SETTLED_MS = 1_000
_BACKOFF_MS = 100
_BACKOFF_MS_MAX = 5_000
#: So many failures before the first success mean that no start will succeed.
_FIRST_FAILURES_MAX = 5


@dataclass(frozen=True, slots=True)
class Health:
    """Of one slot: when its executor was started, quick ends in a row, whether one ever was ready."""

    started_ms: int
    failures: int = 0
    was_ready: bool = False


@dataclass(frozen=True, slots=True)
class Restart:
    after_ms: int


@dataclass(frozen=True, slots=True)
class Stop:
    exit_code: int
    reason: str


def on_executor_end(health: Health, exit_code: int, now_ms: int) -> tuple[Health, Restart | Stop]:
    """`exit_code` is negative for a signal. An executor that ran well is started again at once; one that keeps
    ending soon after its start, at growing intervals."""
    if exit_code == EXIT_DISK:
        return health, Stop(EXIT_DISK, "the disk refused to make data durable")
    if exit_code == EXIT_DATA_GONE:
        return health, Stop(EXIT_DATA_GONE, "the data directory is gone")
    if now_ms - health.started_ms >= _SETTLED_MS:
        return replace(health, failures=0), Restart(0)
    failures = health.failures + 1
    if exit_code != EXIT_NOT_NOW and not health.was_ready and failures >= _FIRST_FAILURES_MAX:
        return health, Stop(EXIT_START, "the executors do not start; the log above says why")
    after_ms = min(_BACKOFF_MS << min(failures - 1, 16), _BACKOFF_MS_MAX)
    # A single quick end, of a process that had become ready, is started again at once as well.
    return replace(health, failures=failures), Restart(0 if health.was_ready and failures == 1 else after_ms)
