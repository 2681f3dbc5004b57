"""A server on loopback, in a thread, which stores what it is sent once for each idempotency key."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .world import ID


@dataclass
class LoopbackServer:
    """`before(path)` is called for each request, and answers it if it gives a status and headers."""

    port: int = 0
    before: Callable[[str], tuple[int, dict[str, str]] | None] = lambda path: None
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    by_key: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"{self.url}/ingest/{ID}"

    @property
    def stored(self) -> list[Any]:
        return [record for records in self.by_key.values() for record in records]

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        self.seen.append((path, headers))
        if method == "GET":
            return {"id": ID}
        return {"committed": len(self.by_key.setdefault(headers["idempotency-key"], json.loads(body)))}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    fake = LoopbackServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            fake.connections.add(self.client_address[1])
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if (refusal := fake.before(self.path)) is not None:
                self.reply(refusal[0], refusal[1], b"{}")
                return
            names = {name.lower(): value for name, value in self.headers.items()}
            result = fake.answer(self.command, self.path, names, body)
            self.reply(200, {}, json.dumps({"success": True, "result": result}).encode())

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client is gone
                self.wfile.write(body)

        do_GET = do_POST = handle_one

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        fake.port = listener.server_address[1]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        listener.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In an empty folder, without a variable that the test did not set."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "PENSTOCK_URL",
        "PENSTOCK_TOKEN",
        "PENSTOCK_ACCOUNT_ID",
        "PENSTOCK_DATA_DIR",
        "HTTP_PROXY",
        "http_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
