"""When a file is due, and what goes into it. Pure functions of (pending, now).

A file is due at the first of: so many bytes, so many records, so many seconds after its first record, the end of
the partition (an hour, UTC, by default) in which its first record came. The last keeps the partition `hr=HH` true:
it holds what came in that hour and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


class Rolling(msgspec.Struct, frozen=True):
    """The bounds of one file. A file passes `bytes_max` or `records_max` by less than one request, because a
    request's records stay together. `partition_ms` is None when a file may span any time."""

    bytes_max: int
    duration_ms_max: int
    records_max: int
    partition_ms: int | None = 3_600_000


@dataclass(frozen=True, slots=True)
class Pending:
    """What is stored and not yet in a file."""

    first_received_ms: int
    records: int
    bytes: int


def due_at_ms(pending: Pending, rolling: Rolling, now_ms: int) -> int:
    """When the next file must be sealed, wall time in milliseconds; `now_ms` if it is due already."""
    if pending.bytes >= rolling.bytes_max or pending.records >= rolling.records_max:
        return now_ms
    due_ms = pending.first_received_ms + rolling.duration_ms_max
    if rolling.partition_ms is not None:
        due_ms = min(due_ms, partition_end_ms(pending.first_received_ms, rolling.partition_ms))
    return max(now_ms, due_ms)


def partition_end_ms(at_ms: int, partition_ms: int) -> int:
    """The first millisecond of the partition after the one that `at_ms` is in."""
    return (at_ms // partition_ms + 1) * partition_ms


def backoff_ms(failures: int, base_ms: int, max_ms: int, fraction: float) -> int:
    """How long to wait after the n-th failure in a row (1, 2, …): `base_ms` doubling up to `max_ms`, of which
    between half and all is taken (`fraction`, 0 to 1, is the chance), so that many do not return together."""
    whole_ms = min(max_ms, base_ms << min(failures - 1, 30))
    return round(whole_ms * (1 + fraction) / 2)
