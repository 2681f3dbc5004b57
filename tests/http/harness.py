"""A node on a real disk, called as ASGI from plain functions.

The node's event loop runs only while a call runs. So between two lines of a test nothing happens, and a test may
look at anything.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from penstock.apps import NO_APPLICATION, Application
from penstock.base.clock import SystemClock
from penstock.base.errors import PenstockError
from penstock.base.limits import Limits
from penstock.base.rng import seeded_rng
from penstock.http.auth import Account
from penstock.pipelines.query.process import OsQueryProcess
from penstock.pipelines.transforms import NoTransforms
from penstock.server.node import Node
from penstock.storage.disk import OsDisk
from penstock.storage.object_store import FolderStore
from penstock.storage.offload import Threads
from penstock.storage.ports import Ports
from penstock.storage.relay import LocalRelay
from penstock.storage.s3_store import S3Pool
from penstock.storage.secrets import SecretKey, Secrets
from penstock.storage.transport import UnixTransport
from penstock.tokens.token_registry import token_hash

ACCOUNT = "a" * 32
TOKEN = "the-token"
PIPELINES = f"/client/v4/accounts/{ACCOUNT}/pipelines"
BUCKET = "my-bucket"
#: Nothing here takes longer; whatever does is stuck.
DEADLINE_S = 10

T = TypeVar("T")
Headers = dict[str, str]


SECRETS = Secrets([SecretKey("00000001", b"k" * 32)], seeded_rng(8))


class RoomyDisk(OsDisk):
    """The real disk, which says to have `room` bytes free."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.room = 1 << 40

    def free_bytes(self, path: str) -> int:
        return self.room


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Headers
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def result(self) -> Any:
        assert self.status == 200, self
        return self.json["result"]

    @property
    def ingest_error(self) -> tuple[int, int, str]:
        """Status, code and message of an answer in the shape of the ingest endpoint."""
        assert self.json["success"] is False
        assert set(self.json) == {"success", "error"}
        return self.status, self.json["error"]["code"], self.json["error"]["message"]

    @property
    def control_error(self) -> tuple[int, int, str]:
        """The same of one in the v4 envelope."""
        assert self.json["success"] is False
        assert self.json["result"] is None and self.json["messages"] == []
        [error] = self.json["errors"]
        return self.status, error["code"], error["message"]


class Exchange:
    """One request whose body the test sends piece by piece."""

    def __init__(self, face: Face, scope: dict[str, Any]) -> None:
        self._face = face
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._waiting = False
        self._sent: list[dict[str, Any]] = []
        self._done = face.loop.create_task(face.node.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        self._waiting = True
        message = await self._incoming.get()
        self._waiting = False
        return message

    async def _send(self, message: Any) -> None:
        self._sent.append(dict(message))

    def send(self, piece: bytes, more: bool = True) -> None:
        """Returns when the application waits for the next piece, or has answered."""
        self._incoming.put_nowait({"type": "http.request", "body": piece, "more_body": more})
        self._face.wait(lambda: self._done.done() or (self._waiting and self._incoming.empty()))

    def push(self, body: bytes) -> None:
        """Send the whole body and return at once."""
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})

    def on_answer(self, do: Callable[[], object]) -> None:
        self._done.add_done_callback(lambda _: do())

    @property
    def received(self) -> bytes:
        """What has come so far of the answer's body."""
        return b"".join(message.get("body", b"") for message in self._sent)

    @property
    def ended(self) -> bool:
        return self._done.done()

    def disconnect(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    def answer(self) -> Answer | None:
        """The answer, None if the application ended without one."""
        self._face.run(self._done)
        if not self._sent:
            return None
        start, *bodies = self._sent
        assert [start["type"], *(m["type"] for m in bodies)] == ["http.response.start", "http.response.body"]
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], headers, bodies[0].get("body", b""))


class _Stopped(Exception):
    """Ends the task group, with the background tasks in it."""


class Face:
    """A node, and what a client and an operator can do to it. Use it in a `with` block."""

    def __init__(self, folder: Path, limits: Limits, application: Application = NO_APPLICATION) -> None:
        self.folder = folder
        self.disk = RoomyDisk(str(folder))
        self._limits = limits
        self._application = application
        self._runner = asyncio.Runner()
        self.loop = self._runner.get_loop()
        self._stop = asyncio.Event()
        self.node: Node
        self._life = self.loop.create_task(self._live())

    async def _live(self) -> None:
        offload, clock = Threads(), SystemClock()
        relay = LocalRelay(offload, clock, self._fatal)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(relay.run())
                buckets = FolderStore(self.disk, offload, f"{self.folder}/buckets", f"{self.folder}/unfinished")
                transport = UnixTransport(str(self.folder), 0, tasks)
                self.node = Node(
                    Ports(
                        *(clock, seeded_rng(7), self.disk, offload, relay, transport, buckets),
                        s3=S3Pool(SECRETS, offload),
                        secrets=SECRETS,
                    ),
                    str(self.folder),
                    Account(ACCOUNT, token_hash(TOKEN)),
                    self._limits,
                    relay.statistics,
                    slot=0,
                    executors=1,
                    tasks=tasks,
                    on_fatal=self._fatal,
                    application=self._application,
                    transforms=NoTransforms(),
                    start_query_process=OsQueryProcess.start,
                )
                await self.node.start()
                await self._stop.wait()
                raise _Stopped  # as a crash would; tests/server stops nodes in order
        except* _Stopped:
            offload.close()

    def _fatal(self, error: PenstockError) -> None:
        raise AssertionError(f"the process would have ended: {error}")

    def __enter__(self) -> Face:
        self.wait(lambda: hasattr(self, "node") and self.get("/readyz").status == 200)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.run(self._life)
        self._runner.close()

    # -- the loop -----------------------------------------------------------------------------------------

    def run(self, work: Awaitable[T]) -> T:
        """Let the loop run until `work` is done; its background tasks run meanwhile."""

        async def bounded() -> T:
            async with asyncio.timeout(DEADLINE_S):
                return await work

        try:
            return self._runner.run(bounded())
        finally:
            if self._life.done():
                self._life.result()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until the condition holds."""

        async def holds() -> None:
            await asyncio.sleep(0.001)

        for _ in range(DEADLINE_S * 1000):
            self.run(holds())
            if condition():
                return
        raise AssertionError("it never came to pass")

    # -- requests -----------------------------------------------------------------------------------------

    def open(self, method: str, target: str, headers: Headers | None = None) -> Exchange:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8787),
            "headers": [
                (name.lower().encode(), value.encode("latin-1"))
                for name, value in ({"host": "127.0.0.1:8787"} | (headers or {})).items()
            ],
        }
        return Exchange(self, scope)

    def request(self, method: str, target: str, body: bytes = b"", headers: Headers | None = None) -> Answer:
        exchange = self.open(method, target, {"content-length": str(len(body))} | (headers or {}))
        exchange.send(body, more=False)
        answer = exchange.answer()
        assert answer is not None
        return answer

    def get(self, target: str, headers: Headers | None = None) -> Answer:
        return self.request("GET", target, b"", headers)

    def control(self, method: str, target: str, body: object = None) -> Answer:
        """A request with the account's token and a JSON body."""
        content = b"" if body is None else json.dumps(body).encode()
        return self.request(method, target, content, {"authorization": f"Bearer {TOKEN}"})

    def ingest(self, pipeline: str, body: object, headers: Headers | None = None) -> Answer:
        """Records (as JSON, or bytes as they are) to a pipeline by its id."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", f"/ingest/{pipeline}", content, headers)

    def now_ms(self) -> int:
        return SystemClock().now_ms()

    # -- what is there ------------------------------------------------------------------------------------

    def create(self, name: str = "clicks", **settings: Any) -> str:
        """Create a pipeline; gives its id. Files are due only after five minutes, unless `batch` says otherwise."""
        id: str = self.control("POST", PIPELINES, pipeline_body(name, **settings)).result["id"]
        return id

    def coordinator(self, id: str) -> Any:
        """The stub of a pipeline's head."""
        return self.node.runtime.namespace("Coordinator").get_by_name(id)

    def drain(self, name: str = "clicks") -> list[bytes]:
        """Delete a pipeline, which delivers what it holds; gives all lines of all files in the bucket."""
        assert self.control("DELETE", f"{PIPELINES}/{name}").status == 200
        self.wait_delivered()
        return self.lines()

    def wait_delivered(self) -> None:
        self.wait(lambda: not any(self.node.statistics.undelivered_bytes.values()))

    def files(self, bucket: str = BUCKET) -> list[Path]:
        return sorted(path for path in (self.folder / "buckets" / bucket).rglob("*") if path.is_file())

    def lines(self, bucket: str = BUCKET) -> list[bytes]:
        """The lines of all files, those of one shard in the order in which they came."""
        return [line for path in self.files(bucket) for line in content(path).splitlines()]

    @property
    def inflight_bytes(self) -> int:
        return self.node.inflight.bytes


def content(path: Path) -> bytes:
    whole = path.read_bytes()
    whole = gzip.decompress(whole) if path.suffix == ".gz" else whole
    assert whole.endswith(b"\n"), path
    return whole


def pipeline_body(name: str = "clicks", **settings: Any) -> dict[str, Any]:
    """A pipeline of one shard; `settings` go into `destination`, or beside it where they belong there."""
    beside = {key: settings.pop(key) for key in ("source", "metadata", "transforms") if key in settings}
    destination = {"type": "r2", "format": "json", "path": {"bucket": BUCKET}} | settings
    return {"name": name, "metadata": {"shards": 1}, "destination": destination} | beside


def as_lines(records: Sequence[object]) -> list[bytes]:
    """What `json.dumps` made of these records for the request, one line each."""
    return [json.dumps(record).encode() for record in records]
