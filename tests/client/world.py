"""A client on virtual time, and the server it talks to: a transport that keeps what it is sent."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from penstock.base.rng import seeded_rng
from penstock.client.answers import Answer
from penstock.client.asynchronous import AsyncClient, AsyncPipeline
from penstock.client.ports import ClientPorts, NoAnswer
from penstock.client.settings import ClientSettings
from penstock.testing.sim.clock import SimClock
from penstock.testing.sim.loop import run_virtual

T = TypeVar("T")

URL = "http://penstock.test"
ID = "a" * 32
ENDPOINT = f"{URL}/ingest/{ID}"
LOST = "the request is taken, its answer is lost"


@dataclass
class Seen:
    """A request, and when it came, in elapsed milliseconds."""

    at_ms: int
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]

    @property
    def records(self) -> list[Any]:
        body = gzip.decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body
        found: list[Any] = json.loads(body)
        return found


@dataclass
class FakeServer:
    """Stores what it gets, once for each idempotency key, unless it is told to answer otherwise.

    `script` holds what happens to the next requests, one after the other: an answer, `NoAnswer`, `LOST`, or None
    for the usual.
    """

    clock: SimClock
    script: list[Answer | NoAnswer | str | None] = field(default_factory=list)
    latency_ms: int = 1
    body_bytes_max: int = 10_000_000
    pipelines: dict[str, str] = field(default_factory=lambda: {"clicks": ID})
    seen: list[Seen] = field(default_factory=list)
    stored: list[Any] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    most_at_once: int = 0
    closed: bool = False
    _running: int = 0

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_ms: int
    ) -> Answer:
        request = Seen(self.clock.elapsed_ms(), method, url, dict(headers), body or b"")
        self.seen.append(request)
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            if self.latency_ms >= timeout_ms:
                await self.clock.sleep_ms(timeout_ms)
                raise NoAnswer("No answer in time.")
            await self.clock.sleep_ms(self.latency_ms)
            return self._answered(request)
        finally:
            self._running -= 1

    async def close(self) -> None:
        self.closed = True

    def _answered(self, request: Seen) -> Answer:
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Answer):
            return step
        if isinstance(step, NoAnswer):
            raise step
        answer = self._described(request) if request.method == "GET" else self._ingested(request)
        if step == LOST:
            raise NoAnswer("The connection was closed.")
        return answer

    def _described(self, request: Seen) -> Answer:
        id = self.pipelines.get(request.url.rpartition("/")[2])
        return ok({"id": id}) if id else refused(404, "There is no such pipeline.", 1000)

    def _ingested(self, request: Seen) -> Answer:
        if request.url.rpartition("/")[2] not in self.pipelines.values():
            return refused(404, "There is no pipeline of this id.", 1000)
        if len(request.body) > self.body_bytes_max:
            return refused(413, "The body is too large.")
        if request.key not in self.keys:
            self.keys[request.key] = len(request.records)
            self.stored += request.records
        return ok({"committed": self.keys[request.key]})

    @property
    def posts(self) -> list[Seen]:
        return [request for request in self.seen if request.method == "POST"]


def ok(result: object) -> Answer:
    return Answer(200, {}, json.dumps({"success": True, "result": result}).encode())


def refused(status: int, message: str = "No.", code: int = 0, **headers: str) -> Answer:
    body = {"success": False, "error": {"code": code, "message": message}}
    return Answer(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()
    )


@dataclass
class World:
    clock: SimClock
    server: FakeServer
    client: AsyncClient

    @property
    def clicks(self) -> AsyncPipeline:
        return self.client.pipeline_at(ENDPOINT)


def in_world(
    test: Callable[[World], Awaitable[T]], settings: ClientSettings | None = None, *, entered: bool = True
) -> T:
    """Run `test(world)` on virtual time; within the client's block, unless it is to enter that itself."""

    async def main(loop: Any) -> T:
        clock = SimClock(loop)
        server = FakeServer(clock)
        ports = ClientPorts(clock=clock, rng=seeded_rng(7), environ={}, transport=lambda: server)
        client = AsyncClient(URL, "secret", "account", settings=settings, ports=ports)
        world = World(clock, server, client)
        if not entered:
            return await test(world)
        async with client:
            return await test(world)

    return run_virtual(main)


def numbered(*numbers: int) -> list[dict[str, int]]:
    return [{"n": number} for number in numbers]


def numbers(records: list[Any]) -> list[int]:
    """Of records, or of their JSON."""
    return [(json.loads(record) if isinstance(record, bytes) else record)["n"] for record in records]
