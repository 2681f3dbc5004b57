"""What a shard thinks of its bucket, after each success and failure. Pure."""

from __future__ import annotations

from msgspec import Struct

from penstock.base.errors import Forbidden, NotFound, PenstockError
from penstock.base.limits import SINK_PAUSED_RETRY_MS, SINK_RETRY_BASE_MS, SINK_RETRY_MAX_MS
from penstock.pipelines.rolling import backoff_ms


class Pause(Struct, frozen=True):
    """Delivery waits for somebody to put something right: `reason` is the error's kind."""

    reason: str
    message: str
    since_ms: int


class SinkHealth(Struct, frozen=True):
    """`failures` in a row; `retry_ms` is when to try again, None if nothing is wrong."""

    failures: int = 0
    retry_ms: int | None = None
    pause: Pause | None = None
    last_error: str = ""


HEALTHY = SinkHealth()


def after_failure(health: SinkHealth, error: Exception, now_ms: int, fraction: float) -> SinkHealth:
    """What no waiting heals pauses the delivery: a key that opens nothing, a bucket that is not there. It is looked
    at once in a while all the same, so that nobody has to tell us when it has been put right. Everything else is
    tried again soon, and for ever: no number of failures makes records worthless."""
    failures = health.failures + 1
    text = error.message if isinstance(error, PenstockError) else repr(error)
    if isinstance(error, Forbidden | NotFound):
        since_ms = health.pause.since_ms if health.pause is not None else now_ms
        wait_ms = backoff_ms(1, SINK_PAUSED_RETRY_MS, SINK_PAUSED_RETRY_MS, fraction)
        return SinkHealth(failures, now_ms + wait_ms, Pause(error.kind, text, since_ms), text)
    wait_ms = backoff_ms(failures, SINK_RETRY_BASE_MS, SINK_RETRY_MAX_MS, fraction)
    return SinkHealth(failures, now_ms + wait_ms, None, text)
