"""A worker, seen from its executor: started, asked, ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import Callable
from typing import TypeVar

import msgspec
import structlog

from penstock.apps.output_lines import OutputLines
from penstock.apps.worker_messages import (
    HEADER_BYTES,
    Answer,
    Job,
    NotStarted,
    Start,
    read_answer,
    read_greeting,
    to_frame,
)
from penstock.base.clock import Clock
from penstock.base.errors import Unavailable
from penstock.base.limits import (
    KIB,
    MIB,
    TRANSFORM_CALL_OUTPUT_BYTES_MAX,
    WORKER_LAST_WORDS_MS_MAX,
    WORKER_OVERDUE_MS_MAX,
    WORKER_START_MS_MAX,
)

log = structlog.get_logger("penstock.apps")
T = TypeVar("T")

#: The largest answer: its records, and what wraps them.
_ANSWER_BYTES_MAX = TRANSFORM_CALL_OUTPUT_BYTES_MAX + 64 * KIB
#: faulthandler's, which ends a worker at a deadline.
_WATCHDOG_EXIT_CODE = 1


class WorkerGone(Exception):
    """The worker ended, or was ended, and did not answer. `overdue`: for it took too long. `how`: for people."""

    def __init__(self, how: str, overdue: bool) -> None:
        super().__init__(how)
        self.how = how
        self.overdue = overdue


class WorkerProcess:
    """One life of a worker. Its task in `tasks` looks after it and kills it when the task is cancelled."""

    @classmethod
    async def start(cls, start: Start, tasks: asyncio.TaskGroup, clock: Clock) -> WorkerProcess:
        """Raises `Unavailable` with the user's traceback, or with what else is wrong."""
        try:
            # As `asyncio.create_subprocess_exec` does it, which keeps the transport to itself: closing that is the
            # only way to be rid of pipes that a process which the worker left behind holds open.
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(limit=1 * MIB, loop=loop),
                sys.executable,
                "-P",  # not the working directory, where anything could have the name of one of Python's modules
                "-m",
                "penstock.apps.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise Unavailable(f"The worker for transforms cannot be started: {error.strerror}.") from error
        worker = cls(transport, Process(transport, protocol, loop), clock)
        tasks.create_task(worker._live())
        try:
            greeting = await worker._ask(to_frame(start), read_greeting, WORKER_START_MS_MAX)
        except WorkerGone as gone:
            raise Unavailable(f"The worker for transforms did not start: {gone.how}; see the log.") from gone
        if isinstance(greeting, NotStarted):
            worker.kill()
            raise Unavailable(f"The worker for transforms cannot be started. {greeting.problem}")
        log.info("worker_started", pid=worker.pid, transforms=greeting.transforms)
        return worker

    def __init__(self, transport: asyncio.SubprocessTransport, process: Process, clock: Clock) -> None:
        self._transport = transport
        self.pid = process.pid
        self._process = process
        self._clock = clock
        self._exit_code: int | None = None
        self._ended = asyncio.Event()
        self._killed = False
        #: While somebody waits for an answer: until when.
        self._patience: asyncio.Timeout | None = None
        #: Of the frame whose length was read already.
        self._payload_bytes: int | None = None

    @property
    def alive(self) -> bool:
        return self._exit_code is None and not self._killed

    async def call(self, job: Job) -> Answer:
        """Raises `WorkerGone`. If the caller is cancelled, the worker is killed: it would answer the wrong one."""
        return await self._ask(to_frame(job), read_answer, job.deadline_ms)

    def kill(self) -> None:
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _ask(self, frame: bytes, read: Callable[[bytes], T], ms_max: int) -> T:
        asked_ms = self._clock.elapsed_ms()
        try:
            payload = await self._exchange(frame, ms_max + WORKER_OVERDUE_MS_MAX)
            if payload is not None:
                # What cannot be read was written by the user's code, to a descriptor that is not its own.
                with contextlib.suppress(msgspec.DecodeError):
                    return read(payload)
        except BaseException:
            self.kill()
            raise
        took_ms = self._clock.elapsed_ms() - asked_ms
        await self._wait_for_end()
        overdue = took_ms >= ms_max and (self._killed or self._exit_code == _WATCHDOG_EXIT_CODE)
        gone = WorkerGone(self._how(), overdue)
        self.kill()
        raise gone

    async def _wait_for_end(self) -> None:
        """For the exit code, which may come a little later than the end of the pipe."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WORKER_LAST_WORDS_MS_MAX / 1000):
                await self._ended.wait()

    async def _exchange(self, frame: bytes, ms_max: int) -> bytes | None:
        """The answer; None if none came in time, or none will come."""
        assert self._process.stdin is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ms_max / 1000) as self._patience:
                try:
                    if self._exit_code is None:
                        self._process.stdin.write(frame)
                        await self._process.stdin.drain()
                    return await self._read_frame()
                finally:
                    self._patience = None
        # It ended, or it is too late. But it may have answered before, while this process was not running.
        if self._exit_code is None:
            self.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WORKER_LAST_WORDS_MS_MAX / 1000):
                return await self._read_frame()
        return None

    async def _read_frame(self) -> bytes | None:
        assert self._process.stdout is not None
        read = self._process.stdout.readexactly
        try:
            if self._payload_bytes is None:
                self._payload_bytes = int.from_bytes(await read(HEADER_BYTES), "big")
            if self._payload_bytes > _ANSWER_BYTES_MAX:
                return None
            payload = await read(self._payload_bytes)
        except (asyncio.IncompleteReadError, OSError):
            return None
        self._payload_bytes = None
        return payload

    def _how(self) -> str:
        if self._exit_code is None or self._killed:
            return "it did not answer and was killed"
        if self._exit_code < 0:
            with contextlib.suppress(ValueError):
                return f"it was ended by {signal.Signals(-self._exit_code).name}"
        return f"it exited with code {self._exit_code}"

    # -- its life -------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                output = tasks.create_task(self._log_output())
                self._exit_code = await self._process.wait()
                self._ended.set()
                if self._patience is not None:
                    # Its end of the pipe may be held open by a process that it forked: no need to wait for that.
                    self._patience.reschedule(asyncio.get_running_loop().time())
                await asyncio.wait([output], timeout=WORKER_LAST_WORDS_MS_MAX / 1000)
                output.cancel()
        finally:
            if self._exit_code is None:
                self.kill()
                await self._process.wait()
            self._transport.close()
        if not self._killed or self._exit_code != -signal.SIGKILL:
            log.warning("worker_ended", pid=self.pid, exit_code=self._exit_code)

    async def _log_output(self) -> None:
        assert self._process.stderr is not None
        lines = OutputLines()
        with contextlib.suppress(OSError):
            while chunk := await self._process.stderr.read(64 * KIB):
                self._log(lines.feed(chunk, self._clock.elapsed_ms()), lines)
        self._log(lines.end(self._clock.elapsed_ms()), lines)

    def _log(self, output: list[str], lines: OutputLines) -> None:
        for line in output:
            log.info("worker_output", pid=self.pid, line=line)
        if dropped := lines.take_dropped():
            log.warning("worker_output_dropped", pid=self.pid, lines=dropped)
