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

from penstock.base.errors import Fenced, PenstockError
from penstock.base.limits import ALARM_RETRIES_MAX, ALARM_RETRY_BASE_MS, ALARM_RETRY_MAX_MS
from penstock.base.rng import Rng


@dataclass(frozen=True, slots=True)
class Alarm:
    """A committed alarm. `retries` are the tries that failed and count, `tries` all that did not succeed. `failed`
    is set after the last retry; it then fires no more but stays visible."""

    at_ms: int
    retries: int = 0
    failed: bool = False
    tries: int = 0


def must_index_before_commit(committed: Alarm | None, indexed_ms: int | None) -> bool:
    """Whether the index must be moved before a transaction that leaves the object with this alarm commits."""
    if committed is None or committed.failed:
        return False
    return indexed_ms is None or committed.at_ms < indexed_ms


def on_fired(alarm: Alarm | None, now_ms: int) -> bool:
    """Whether an index entry that fired should run the alarm handler now."""
    return alarm is not None and not alarm.failed and alarm.at_ms <= now_ms


def is_counted(error: BaseException) -> bool:
    """Whether a handler that raised this has used up one of its tries. Not if it is what passes by itself, however
    long it takes: something is away or has too much to do, or the disk is full. No alarm is given up for it."""
    return not (isinstance(error, PenstockError) and (error.retryable or isinstance(error, Fenced)))


def on_handler_failed(alarm: Alarm, now_ms: int, rng: Rng, *, counted: bool = True) -> Alarm:
    """The alarm after its handler raised: again after 2 s, doubling with each try up to 64 s, and up to a quarter
    more by chance; failed after `ALARM_RETRIES_MAX` retries that counted."""
    retries = alarm.retries + counted
    if retries > ALARM_RETRIES_MAX:
        return replace(alarm, failed=True)
    delay_ms = _doubled_ms(alarm.tries)
    return Alarm(now_ms + delay_ms + rng.randrange(delay_ms // 4), retries, tries=alarm.tries + 1)


def after_lost_tries(alarm: Alarm, lost: int) -> Alarm:
    """The alarm of which `lost` tries have ended with their process. Each counts as one that failed."""
    retries = alarm.retries + lost
    return replace(alarm, retries=retries, tries=alarm.tries + lost, failed=retries > ALARM_RETRIES_MAX)


def pause_after_loss_ms(lost: int) -> int:
    """How long an alarm waits if the process ends that fires it, and `lost` before did so. Nothing the first time:
    usually the process had another reason."""
    return _doubled_ms(lost - 1) if lost else 0


def _doubled_ms(times: int) -> int:
    return ALARM_RETRY_MAX_MS if times > 30 else min(ALARM_RETRY_BASE_MS << times, ALARM_RETRY_MAX_MS)
