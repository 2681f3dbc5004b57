"""`GET …/pipelines/{name}/usage`: what went in and out, what waits, what was refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.http.control import Endpoint, envelope
from penstock.http.pipelines import BASE, coordinator_by_name, rendered_time
from penstock.objects import Runtime
from penstock.pipelines.counters import OTHER, PipelineCounters
from penstock.pipelines.settings import PipelineDescription
from penstock.pipelines.usage import PipelineUsage

#: What each executor counted of the pipeline with an id since its start; None for one that did not answer.
AskExecutors = Callable[[str], Awaitable[Sequence[PipelineCounters | None]]]


class UsageRoutes:
    def __init__(self, runtime: Runtime, ask_executors: AskExecutors) -> None:
        self._runtime = runtime
        self._ask_executors = ask_executors
        self.endpoints = [Endpoint("GET", BASE + "/{name}/usage", "pipelines:read", self.usage)]

    async def usage(self, request: Request) -> Response:
        coordinator = await coordinator_by_name(self._runtime, request)
        description: PipelineDescription = await coordinator.describe()
        usage: PipelineUsage = await coordinator.usage()
        counted = await self._ask_executors(description.id)
        now_ms = self._runtime.ports.clock.now_ms()
        return envelope(
            {"id": description.id, "name": description.settings.name, **_rendered(usage, counted, now_ms)}
        )


def _rendered(usage: PipelineUsage, counted: Sequence[PipelineCounters | None], now_ms: int) -> dict[str, Any]:
    total = usage.total
    since_start = PipelineCounters(OTHER)
    for counters in counted:
        if counters is not None:
            since_start.add(counters)
    return {
        "created_at": rendered_time(usage.created_ms),
        "in": {"requests": total.requests, "records": total.records, "bytes": total.bytes},
        "out": {
            "files": total.files,
            "bytes": total.file_bytes,
            "records": total.delivered_records,
            "dead_records": total.dead_records,
            "dead_reasons": total.dead_reasons,
        },
        "backlog": {
            "records": usage.backlog_records,
            "bytes": usage.backlog_bytes,
            "oldest_at": rendered_time(usage.oldest_ms),
            # The clock may have gone back.
            "lag_ms": max(0, now_ms - usage.oldest_ms) if usage.oldest_ms is not None else 0,
        },
        "since_start": {
            "refused": since_start.refused,
            "delivery_failures": since_start.delivery_failures,
        },
        "missing": {
            "shards": usage.missing_shards,
            "executors": [slot for slot, counters in enumerate(counted) if counters is None],
        },
    }
