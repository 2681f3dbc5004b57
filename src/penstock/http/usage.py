"""`GET …/pipelines/{name}/usage`: what went in and out, what waits, what was refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct, field
from starlette.requests import Request
from starlette.responses import Response

from penstock.http.control import Endpoint, envelope
from penstock.http.pipeline_answers import Backlog, Time, rendered_time
from penstock.http.pipelines import BASE, coordinator_by_name
from penstock.objects import Runtime
from penstock.pipelines.counters import OTHER, PipelineCounters
from penstock.pipelines.settings import PipelineDescription
from penstock.pipelines.usage import PipelineUsage

#: What each executor counted of the pipeline with an id since its start; None for one that did not answer.
AskExecutors = Callable[[str], Awaitable[Sequence[PipelineCounters | None]]]


class UsageIn(Struct, frozen=True):
    """What was stored; its bytes are those of the records, one a line."""

    requests: int
    records: int
    bytes: int


class UsageOut(Struct, frozen=True):
    """What was delivered; `bytes` is the size of the files, `dead_reasons` the dead records by reason."""

    files: int
    bytes: int
    records: int
    dead_records: int
    dead_reasons: dict[str, int]


class UsageBacklog(Backlog, frozen=True):
    """What is stored and in no file yet; `lag_ms` is the age of the oldest record of it."""

    lag_ms: int


class UsageSinceStart(Struct, frozen=True):
    """From the start of each executor: refused requests by the kind of error."""

    refused: dict[str, int]
    delivery_failures: int


class UsageMissing(Struct, frozen=True):
    """What could not be asked and is not in the sums."""

    shards: list[str]
    executors: list[int]


class Usage(Struct, frozen=True):
    id: str
    name: str
    created_at: Time | None
    into: UsageIn = field(name="in")
    out: UsageOut
    backlog: UsageBacklog
    since_start: UsageSinceStart
    missing: UsageMissing


class UsageRoutes:
    def __init__(self, runtime: Runtime, ask_executors: AskExecutors) -> None:
        self._runtime = runtime
        self._ask_executors = ask_executors
        self.endpoints = [
            Endpoint(
                *("GET", BASE + "/{name}/usage", "pipelines:read", self.get_usage),
                tag="Pipelines",
                result=Usage,
            )
        ]

    async def get_usage(self, request: Request) -> Response:
        """Get a pipeline's usage.

        What it took in and gave out since it was made, of all its versions.
        """
        coordinator = await coordinator_by_name(self._runtime, request)
        description: PipelineDescription = await coordinator.describe()
        usage: PipelineUsage = await coordinator.usage()
        counted = await self._ask_executors(description.id)
        now_ms = self._runtime.ports.clock.now_ms()
        return envelope(_answer(description, usage, counted, now_ms))


def _answer(
    description: PipelineDescription,
    usage: PipelineUsage,
    counted: Sequence[PipelineCounters | None],
    now_ms: int,
) -> Usage:
    total = usage.total
    since_start = PipelineCounters(OTHER)
    for counters in counted:
        if counters is not None:
            since_start.add(counters)
    return Usage(
        id=description.id,
        name=description.settings.name,
        created_at=rendered_time(usage.created_ms),
        into=UsageIn(total.requests, total.records, total.bytes),
        out=UsageOut(
            total.files, total.file_bytes, total.delivered_records, total.dead_records, total.dead_reasons
        ),
        backlog=UsageBacklog(
            usage.backlog_records,
            usage.backlog_bytes,
            rendered_time(usage.oldest_ms),
            # The clock may have gone back.
            lag_ms=max(0, now_ms - usage.oldest_ms) if usage.oldest_ms is not None else 0,
        ),
        since_start=UsageSinceStart(since_start.refused, since_start.delivery_failures),
        missing=UsageMissing(
            usage.missing_shards, [slot for slot, counters in enumerate(counted) if counters is None]
        ),
    )
