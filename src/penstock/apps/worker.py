"""The process in which users' functions run: `python -m penstock.apps.worker`, started by an executor.

It can be ended at any moment: what it was doing is done again, or its records are dead letters. So a function that
is slow, that crashes or that eats memory never harms the executor. Its life hangs on its standard input: when that
is closed, the executor is dead or wants it to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import os
import resource
import signal
import sys
import threading
from collections.abc import Awaitable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from penstock.apps.loading import find_app
from penstock.apps.source import import_again
from penstock.apps.transform import Transform
from penstock.apps.transform_call import decode_records, raised, take_result
from penstock.apps.transform_run import Failed, Returned
from penstock.apps.worker_messages import (
    HEADER_BYTES,
    Answer,
    Done,
    Greeting,
    Job,
    NotDone,
    NotStarted,
    Start,
    Started,
    read_job,
    read_start,
    to_frame,
)
from penstock.base.errors import Invalid
from penstock.base.limits import WORKER_START_MS_MAX

_STDERR = 2


def main() -> None:
    """Serve until standard input is closed."""
    requests, answers = _take_pipes()
    # Ctrl-C and a service manager reach the whole group: the executor decides, and has work for us until its end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable(_STDERR)
    # A crash is answered and logged; a core for each would fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    payloads: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_frames, args=(requests, payloads), daemon=True).start()
    greeting, transforms, folder = _start(read_start(payloads.get()))
    _write(answers, to_frame(greeting))
    with asyncio.Runner() as runner:
        while True:
            job = read_job(payloads.get())
            _write(answers, to_frame(_answer(job, transforms[job.transform], folder, runner)))


def _take_pipes() -> tuple[int, int]:
    """Keep standard input and output for ourselves. What the user's code prints goes to the log, as errors do."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(_STDERR, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    return requests, answers


def _read_frames(requests: int, payloads: SimpleQueue[bytes]) -> None:
    """In a thread, so that the end of the executor is noticed while a function runs. It never returns."""
    try:
        with open(requests, "rb") as file:
            while header := file.read(HEADER_BYTES):
                payloads.put(file.read(int.from_bytes(header, "big")))
        os._exit(0)
    finally:
        os._exit(1)


def _write(answers: int, frame: bytes) -> None:
    view = memoryview(frame)
    while view:
        view = view[os.write(answers, view) :]


def _start(start: Start) -> tuple[Greeting, Mapping[str, Transform], Path]:
    folder = Path(start.source.folder)
    sys.path[:] = start.path
    # The executor waits as long, and may be dead by then; a thread that Python does not run would not notice.
    faulthandler.dump_traceback_later(WORKER_START_MS_MAX / 1000, exit=True, file=_STDERR)
    try:
        app = find_app(import_again(start.source))
    except Invalid as error:
        return NotStarted(error.message), {}, folder
    finally:
        faulthandler.cancel_dump_traceback_later()
    if start.memory_bytes_max:
        # Afterwards, so that a limit that is too low shows in the calls, and not in whatever an import makes of it.
        # Not every system has it (macOS).
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (start.memory_bytes_max, start.memory_bytes_max))
    transforms = app.transforms if app is not None else {}
    return Started(list(transforms)), transforms, folder


def _answer(job: Job, transform: Transform, folder: Path, runner: asyncio.Runner) -> Answer:
    # A thread in C that needs no GIL: it ends even a function that Python cannot interrupt, says on standard error
    # where it was, and does so when the executor is dead, too.
    faulthandler.dump_traceback_later(job.deadline_ms / 1000, exit=True, file=_STDERR)
    try:
        match _called(job, transform, folder, runner):
            case Returned(ndjson, records):
                return Done(ndjson, records)
            case Failed(reason, detail):
                return NotDone(reason, detail)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _called(job: Job, transform: Transform, folder: Path, runner: asyncio.Runner) -> Returned | Failed:
    try:
        result: object = transform.function(decode_records(job.ndjson))
        if inspect.isawaitable(result):
            result = runner.run(_awaited(result))
    # Whatever a function can raise, SystemExit and CancelledError among it, is said of its records.
    except BaseException as error:  # noqa: BLE001
        return raised(error, folder)
    return take_result(result, job.output_bytes_max)


async def _awaited(result: Awaitable[Any]) -> object:
    return await result


if __name__ == "__main__":
    main()
