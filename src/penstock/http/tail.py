"""`GET …/pipelines/{name}/tail`: the records of a pipeline while they come, as NDJSON.

Records come from all shards that take them now, also after the pipeline was changed, in no particular order between
shards. An empty line is sent now and then, so that whoever is between sees a living connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from penstock.base.errors import Forbidden, NotFound, Overloaded, PenstockError, Unauthenticated
from penstock.base.limits import TAIL_FOLLOW_MS, TAIL_KEEP_ALIVE_MS, TAILS_MAX
from penstock.http.auth import Authenticator
from penstock.http.control import Endpoint
from penstock.http.description import plain
from penstock.http.parameters import Share
from penstock.http.pipelines import BASE, coordinator_by_name
from penstock.objects import Runtime, Stub
from penstock.objects.streams import Chunks
from penstock.pipelines.plan import Plan
from penstock.pipelines.settings_body import CODE_INVALID_SETTINGS

log = structlog.get_logger("penstock.http")

_MEDIA_TYPE = "application/x-ndjson"
_SAMPLE = Share("sample", "the share of the records.", CODE_INVALID_SETTINGS)


class TailRoutes:
    def __init__(self, runtime: Runtime, authenticator: Authenticator) -> None:
        self._runtime = runtime
        self._authenticator = authenticator
        self._running = 0
        self._draining = asyncio.Event()
        self.endpoints = [
            Endpoint(
                *("GET", BASE + "/{name}/tail", "pipelines:read", self.tail_records),
                tag="Records",
                query=(_SAMPLE,),
                answers=(plain(_MEDIA_TYPE, "Lines, without an end."),),
                errors=(Overloaded,),
            )
        ]

    def drain(self) -> None:
        """End all of them: they would end by themselves only with their clients."""
        self._draining.set()

    async def tail_records(self, request: Request) -> Response:
        """Watch records while they come.

        The answer is NDJSON without an end. A line is `{"record":…}` with a record as it came, `{"dropped":3}` for
        records that came faster than they were read, or empty, every 10 seconds. The answer ends when the executor
        drains or the pipeline is deleted. Watching takes no record away and holds nothing up.
        """
        sample = _SAMPLE.read(request)
        coordinator = await coordinator_by_name(self._runtime, request)
        if self._running >= TAILS_MAX:
            raise Overloaded(f"This executor serves {TAILS_MAX} tails already; end one.", retry_after_s=5)
        authorization, name = request.headers.get("authorization"), request.path_params["name"]
        still_allowed = partial(self._authenticator.require, authorization, "pipelines:read", name)
        tail = _Tail(self._runtime, coordinator, sample, still_allowed)
        await tail.open_new()
        return _TailResponse(tail, self._draining, self._count)

    def _count(self, change: int) -> None:
        self._running += change


class _Tail:
    """The streams of all shards that take records, on their way to one client."""

    def __init__(
        self, runtime: Runtime, coordinator: Stub, sample: float, still_allowed: Callable[[], Awaitable[None]]
    ) -> None:
        """`still_allowed` raises `Unauthenticated` or `Forbidden` when the client's token holds no more."""
        self._shards = runtime.namespace("StreamShard")
        self._clock = runtime.ports.clock
        self._coordinator = coordinator
        self._sample = sample
        self._still_allowed = still_allowed
        #: Shards whose streams are open; those that nobody reads yet.
        self._open: set[str] = set()
        self._unread: list[tuple[str, Chunks]] = []
        self._some_ended = asyncio.Event()
        self._writing = asyncio.Lock()

    async def open_new(self) -> None:
        """Open what the pipeline's plan names and is not open. Raises `NotFound`, `Overloaded`, `Unavailable`."""
        plan: Plan = await self._coordinator.plan()
        for name in plan.shards:
            if name not in self._open:
                self._unread.append((name, await self._shards.get_by_name(name).tail(self._sample)))
                self._open.add(name)

    async def run(self, receive: Receive, send: Send, draining: asyncio.Event) -> None:
        """Until the client goes, its token holds no more, the executor drains, or the pipeline is deleted."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._until_gone(receive))
                tasks.create_task(self._until_draining(draining))
                tasks.create_task(self._keep_alive(send))
                await self._follow(tasks, send)
        except* _Ended:
            pass
        finally:
            for _, stream in self._unread:
                stream.close()

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise _Ended

    async def _until_draining(self, draining: asyncio.Event) -> None:
        await draining.wait()
        raise _Ended

    async def _keep_alive(self, send: Send) -> None:
        while True:
            await self._clock.sleep_ms(TAIL_KEEP_ALIVE_MS)
            await self._write(send, b"\n")

    async def _follow(self, tasks: asyncio.TaskGroup, send: Send) -> None:
        """Read all streams, and those of the shards that come in their place."""
        while True:
            while self._unread:
                tasks.create_task(self._read(*self._unread.pop(), send))
            self._some_ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TAIL_FOLLOW_MS / 1000):
                    await self._some_ended.wait()
            try:
                await self._still_allowed()
                await self.open_new()
            except (NotFound, Unauthenticated, Forbidden):
                raise _Ended from None
            except PenstockError as error:
                log.info("tail_not_followed", error=error.message)
                await self._clock.sleep_ms(TAIL_FOLLOW_MS)

    async def _read(self, name: str, stream: Chunks, send: Send) -> None:
        rest = b""
        try:
            async for chunk in stream:
                # Where chunks end says nothing; a line is never mixed with another shard's.
                lines, newline, rest = (rest + chunk).rpartition(b"\n")
                if newline:
                    await self._write(send, lines + newline)
        except PenstockError as error:
            log.info("tail_lost_a_shard", shard=name, error=error.message)
        finally:
            stream.close()
            self._open.discard(name)
            self._some_ended.set()

    async def _write(self, send: Send, lines: bytes) -> None:
        async with self._writing:
            await send({"type": "http.response.body", "body": lines, "more_body": True})


class _Ended(Exception):
    """Ends the tasks of a tail."""


class _TailResponse(Response):
    media_type = _MEDIA_TYPE

    def __init__(self, tail: _Tail, draining: asyncio.Event, count: Callable[[int], None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._tail = tail
        self._draining = draining
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._count(1)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._tail.run(receive, send, self._draining)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._count(-1)
