"""A process that has a worker, as an executor has, and can be killed: `python worker_host.py APP`.

It runs the transform `pid`, prints the worker's process id that this gives, then starts `stuck`, prints `started`
when that says so in the log, and waits for it."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import structlog
import uvloop

from penstock.apps.loading import load
from penstock.apps.transforms import WorkerTransforms
from penstock.base.clock import SystemClock


def show(_logger: object, _method: str, event: structlog.typing.EventDict) -> Any:
    if event.get("line") == "stuck":
        print("started", flush=True)
    raise structlog.DropEvent


async def main() -> None:
    application = load(sys.argv[1], ())
    async with asyncio.TaskGroup() as tasks:
        transforms = WorkerTransforms(application, tasks, SystemClock(), memory_bytes_max=0)
        outcome = await transforms.run("pid", b"{}\n")
        print(json.loads(outcome.ndjson)["pid"], flush=True)
        await transforms.run("stuck", b"{}\n")


structlog.configure(processors=[show])
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
