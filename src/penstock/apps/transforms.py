"""The application's transforms, run in a worker."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

import structlog

from penstock.apps.application import Application
from penstock.apps.source import AppSource
from penstock.apps.transform import Transform
from penstock.apps.transform_run import (
    Call,
    CallResult,
    Died,
    Failed,
    Overdue,
    Returned,
    TransformOutcome,
    TransformRun,
)
from penstock.apps.worker_messages import Done, Job, NotDone, Start
from penstock.apps.worker_process import WorkerGone, WorkerProcess
from penstock.base.clock import Clock
from penstock.base.errors import NotFound

log = structlog.get_logger("penstock.apps")


class WorkerTransforms:
    """Implements `penstock.pipelines.transforms.Transforms`. One worker for all of an executor's transforms,
    started when it is needed, and again after it ended. Calls of several runs take turns."""

    def __init__(
        self, application: Application, tasks: asyncio.TaskGroup, clock: Clock, *, memory_bytes_max: int
    ) -> None:
        """`memory_bytes_max` bounds the worker's address space; 0 is no limit."""
        self._application = application
        self._tasks = tasks
        self._clock = clock
        self._memory_bytes_max = memory_bytes_max
        self._worker: WorkerProcess | None = None
        self._turn = asyncio.Lock()

    def names(self) -> list[str]:
        return sorted(self._application.transforms)

    def version(self, name: str) -> str:
        find_transform(self._application, name)
        return self._application.version

    async def run(self, name: str, ndjson: bytes) -> TransformOutcome:
        transform = find_transform(self._application, name)
        run = TransformRun(ndjson, transform.batch_records_max)
        while (call := run.next()) is not None:
            async with self._turn:
                result = await self._called(transform, call)
            run.on(result)
        return concluded(transform, run)

    async def _called(self, transform: Transform, call: Call) -> CallResult:
        worker = self._worker
        if worker is None or not worker.alive:
            self._worker = worker = await WorkerProcess.start(self._start_message(), self._tasks, self._clock)
        job = Job(transform.name, call.ndjson, transform.deadline_ms, call.output_bytes_max)
        try:
            answer = await worker.call(job)
        except WorkerGone as gone:
            if gone.overdue:
                log.warning("transform_overdue", transform=transform.name, deadline_ms=transform.deadline_ms)
                return overdue(transform)
            log.warning("transform_crashed", transform=transform.name, records=call.records, how=gone.how)
            return Died(f"The transform's process died: {gone.how}.")
        match answer:
            case Done(ndjson, records):
                return Returned(ndjson, records)
            case NotDone(reason, detail):
                return Failed(reason, detail)

    def _start_message(self) -> Start:
        return Start(_origin(self._application), sys.path, self._memory_bytes_max)


def find_transform(application: Application, name: str) -> Transform:
    """Raises `NotFound`, naming those that there are."""
    transform = application.transforms.get(name)
    if transform is None:
        known = ", ".join(sorted(application.transforms)) or "none"
        raise NotFound(f"The application has no transform {name!r}; it has: {known}.")
    return transform


def overdue(transform: Transform) -> Overdue:
    return Overdue(f"The transform took longer than its deadline of {transform.deadline_ms:,} ms.")


def concluded(transform: Transform, run: TransformRun) -> TransformOutcome:
    """The run's outcome. The log says how many records are dead, for which reasons."""
    outcome = run.outcome()
    if outcome.dead:
        reasons = Counter(dead.reason for dead in outcome.dead)
        log.warning(
            "transform_rejected", transform=transform.name, records=len(outcome.dead), reasons=dict(reasons)
        )
    return outcome


def _origin(application: Application) -> AppSource:
    assert application.origin is not None, "only code that was loaded can be loaded again in a worker"
    return application.origin
