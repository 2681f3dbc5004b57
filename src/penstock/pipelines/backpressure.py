"""When to refuse records that could be stored, so that nobody's backlog harms another. Pure.

Accepted bytes that are in no file yet have three budgets: the shard's, the pipeline's (divided among its shards)
and the executor's, which all pipelines share. While the executor's is not used up, a pipeline may take what its own
two allow. Once it is, only those over their fair share are refused: so a pipeline whose bucket is down fills what
the others leave, and never keeps a quiet one from storing a record.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.base.limits import RETRY_AFTER_S_MAX

#: A rate is an average over about this time.
_RATE_WINDOW_MS = 30_000
#: What a client is told while nothing has gone out yet.
_DRAIN_S_UNKNOWN = 5


@dataclass(frozen=True, slots=True)
class Backlog:
    """Accepted bytes that are in no file yet: of the shard, of its pipeline's shards on this executor, of the whole
    executor, and how many pipelines have any there."""

    shard_bytes: int
    pipeline_bytes: int
    executor_bytes: int
    pipelines: int


@dataclass(frozen=True, slots=True)
class Budgets:
    """Fields of `Limits`: undelivered_bytes_max, pipeline_undelivered_bytes_max, executor_undelivered_bytes_max."""

    shard_bytes: int
    pipeline_bytes: int
    executor_bytes: int


def exceeded(backlog: Backlog, budgets: Budgets, size: int) -> tuple[str, int, int] | None:
    """Which budget `size` more bytes would pass, by the name that it has in `Limits`, the bytes that wait under it,
    and by how much it would be passed; None if they may be stored."""
    for name, waiting, most in (
        ("undelivered_bytes_max", backlog.shard_bytes, budgets.shard_bytes),
        ("pipeline_undelivered_bytes_max", backlog.pipeline_bytes, budgets.pipeline_bytes),
    ):
        if waiting + size > most:
            return name, waiting, waiting + size - most
    over = backlog.executor_bytes + size - budgets.executor_bytes
    if over > 0:
        share = budgets.executor_bytes // max(1, backlog.pipelines)
        if backlog.pipeline_bytes + size > share:
            return "executor_undelivered_bytes_max", backlog.executor_bytes, over
    return None


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second, an exponentially weighted average."""

    bytes_per_s: float = 0.0
    at_ms: int = 0

    def after(self, size: int, now_ms: int) -> Rate:
        """With `size` bytes that went out since `at_ms`; `now_ms` is of a clock that never goes back."""
        if not self.at_ms:
            return Rate(0.0, now_ms)
        elapsed_ms = max(1, now_ms - self.at_ms)
        weight = min(1.0, elapsed_ms / _RATE_WINDOW_MS)
        return Rate(self.bytes_per_s * (1 - weight) + size * 1000 / elapsed_ms * weight, now_ms)


def retry_after_s(over_bytes: int, rate: Rate, wait_ms: int = 0) -> int:
    """When a refused client should come again: when as much as it was too much has gone out, and not before the
    bucket is tried again in `wait_ms`."""
    drain_s = over_bytes / rate.bytes_per_s if rate.bytes_per_s > 0 else _DRAIN_S_UNKNOWN
    return max(1, round(min(RETRY_AFTER_S_MAX, max(drain_s, wait_ms / 1000))))
