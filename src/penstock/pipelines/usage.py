"""What a pipeline took in and gave out since it was made, summed up from its shards. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from penstock.pipelines.counters import add_to
from penstock.pipelines.stream_shard import ShardStatus


class ShardUsage(Struct, frozen=True):
    """Of one shard, durable: `bytes` as NDJSON, `file_bytes` as the files have them,
    `dead_reasons` the dead records by reason."""

    requests: int = 0
    records: int = 0
    bytes: int = 0
    files: int = 0
    file_bytes: int = 0
    delivered_records: int = 0
    dead_records: int = 0
    dead_reasons: dict[str, int] = {}

    @classmethod
    def of(cls, status: ShardStatus) -> ShardUsage:
        totals = status.totals
        return cls(
            status.accepted_requests,
            status.accepted_records,
            status.accepted_bytes,
            totals.files,
            totals.file_bytes,
            totals.delivered_records,
            totals.dead_records,
            totals.dead_reasons,
        )


class PipelineUsage(Struct, frozen=True):
    """Of all shards of all generations. Times are milliseconds since the Unix epoch; `oldest_ms` is when the oldest
    record came that is in no file yet. `missing_shards` could not be asked: what they have is not in the sums."""

    total: ShardUsage
    created_ms: int
    backlog_records: int
    backlog_bytes: int
    oldest_ms: int | None
    shards: int
    missing_shards: list[str]


def total_of(parts: Iterable[ShardUsage]) -> ShardUsage:
    dead_reasons: dict[str, int] = {}
    sums = {field: 0 for field in ShardUsage.__struct_fields__ if field != "dead_reasons"}
    for part in parts:
        for field in sums:
            sums[field] += getattr(part, field)
        for reason, count in part.dead_reasons.items():
            add_to(dead_reasons, reason, count)
    return ShardUsage(**sums, dead_reasons=dead_reasons)


def pipeline_usage(
    drained: Iterable[ShardUsage], live: Iterable[ShardStatus], missing_shards: list[str], created_ms: int
) -> PipelineUsage:
    """`drained` are the shards that change no more."""
    parts, statuses = list(drained), list(live)
    return PipelineUsage(
        total=total_of([*parts, *map(ShardUsage.of, statuses)]),
        created_ms=created_ms,
        backlog_records=sum(status.backlog_records for status in statuses),
        backlog_bytes=sum(status.backlog_bytes for status in statuses),
        oldest_ms=min((s.oldest_ms for s in statuses if s.oldest_ms is not None), default=None),
        shards=len(parts) + len(statuses) + len(missing_shards),
        missing_shards=missing_shards,
    )
