"""The process of one query, seen from its executor: started, asked, ended."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
import structlog

from penstock.base.errors import Internal, Invalid, Unavailable
from penstock.base.limits import RECORDS_QUERY_FRAME_BYTES_MAX
from penstock.pipelines.query.messages import HEADER_BYTES, Answer, Failed, Question, read_answer, to_frame

log = structlog.get_logger("penstock.pipelines")

#: Read ahead of an answer.
_BUFFER_BYTES = 1 << 20
#: What is kept of a process's last words, for the log.
_LAST_WORDS_BYTES = 4_000

#: SQL that is wrong, or asks for what a query cannot have.
CODE_QUERY = 1010


class QueryProcess(Protocol):
    async def ask(self, question: Question) -> Answer:
        """Raises `Invalid` with what is wrong with the query, `Unavailable` when the process is lost."""
        ...

    async def end(self) -> None:
        """Kill it if it still runs. Nothing of it is left on return."""
        ...


StartQueryProcess = Callable[[], Awaitable[QueryProcess]]


async def no_query_process() -> QueryProcess:
    """Of a server that runs no queries."""
    raise Invalid("This server runs no queries.", code=CODE_QUERY)


class OsQueryProcess:
    @classmethod
    async def start(cls) -> OsQueryProcess:
        try:
            # As `asyncio.create_subprocess_exec` does it, which keeps the transport to itself: closing that is the
            # only way to be rid of pipes with something in them that nobody wants to read any more.
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(limit=_BUFFER_BYTES, loop=loop),
                sys.executable,
                "-P",  # not the working directory, where anything could have the name of one of Python's modules
                "-m",
                "penstock.pipelines.query.worker",
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env={},
            )
        except OSError as error:
            raise Unavailable(f"The process of the query cannot be started: {error.strerror}.") from error
        return cls(transport, Process(transport, protocol, loop))

    def __init__(self, transport: asyncio.SubprocessTransport, process: Process) -> None:
        self._transport = transport
        self._process = process
        self.pid = process.pid

    async def ask(self, question: Question) -> Answer:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(to_frame(question))
            await process.stdin.drain()
            size = int.from_bytes(await process.stdout.readexactly(HEADER_BYTES), "big")
            if size > RECORDS_QUERY_FRAME_BYTES_MAX:
                raise Internal(f"The process of the query sent a frame of {size} bytes.")
            answer = read_answer(await process.stdout.readexactly(size))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise await self._lost() from error
        except msgspec.DecodeError as error:
            raise Internal(f"The process of the query sent what cannot be read: {error}.") from error
        if isinstance(answer, Failed):
            raise Invalid(answer.message, code=CODE_QUERY)
        return answer

    async def _lost(self) -> Invalid:
        """It ended without an answer: DuckDB met one of the bounds that end a process."""
        process = self._process
        assert process.stderr is not None
        words = await process.stderr.read(_LAST_WORDS_BYTES)
        code = await process.wait()
        log.warning("query_process_ended", pid=self.pid, exit_code=code, stderr=words.decode(errors="replace"))
        return Invalid(
            "The process of the query ended: the query needs more memory or processor time than a query may take. "
            "Ask for less at once.",
            code=CODE_QUERY,
        )

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        try:
            await self._process.wait()
        finally:
            self._transport.close()
