"""Alarms: the decisions. Pure functions of (alarm, now); the shell is in `object_alarm.py` and `alarm_index.py`.

Two records exist of each alarm: the one committed in the object's own database, which is the truth, and one in
the executor's durable index, which finds objects that are not in memory. The invariant between them:

    the index entry is never later than the committed alarm

so a crash at any moment leaves at worst an index entry that fires too early, which is noticed (the committed
alarm is compared) and put right. To keep it, an alarm that moves *earlier* is written to the index, durably,
before the object's transaction commits; one that moves *later* or goes away is committed first.
(workerd: io/actor-sqlite.h.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.base.errors import Fenced, StorageFull, Unavailable
from penstock.base.limits import ALARM_RETRIES_MAX, ALARM_RETRY_BASE_MS
from penstock.base.rng import Rng


@dataclass(frozen=True, slots=True)
class Alarm:
    """A committed alarm. `failed` is set after the last retry; it then fires no more but stays visible."""

    at_ms: int
    retries: int = 0
    failed: bool = False


def must_index_before_commit(committed: Alarm | None, indexed_ms: int | None) -> bool:
    """Whether the index must be moved before a transaction that leaves the object with this alarm commits."""
    if committed is None or committed.failed:
        return False
    return indexed_ms is None or committed.at_ms < indexed_ms


def on_fired(alarm: Alarm | None, now_ms: int) -> bool:
    """Whether an index entry that fired should run the alarm handler now."""
    return alarm is not None and not alarm.failed and alarm.at_ms <= now_ms


def is_counted(error: BaseException) -> bool:
    """Whether a handler that raised this has used up one of its tries. Not if the fault is ours: something is away,
    or the disk is full. That passes, however long it takes, and no alarm is given up for it."""
    return not isinstance(error, Unavailable | StorageFull | Fenced)


def on_handler_failed(alarm: Alarm, now_ms: int, rng: Rng, *, counted: bool = True) -> Alarm:
    """The alarm after its handler raised: again after 2 s, doubling with each try that counted, up to a quarter
    more by chance; failed after `ALARM_RETRIES_MAX` retries that counted."""
    retries = alarm.retries + counted
    if retries > ALARM_RETRIES_MAX:
        return replace(alarm, failed=True)
    delay_ms = ALARM_RETRY_BASE_MS << alarm.retries
    return Alarm(now_ms + delay_ms + rng.randrange(delay_ms // 4), retries)
