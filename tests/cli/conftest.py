"""A stand-in for the server (loopback, in a thread) and the command run as a user runs it."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ACCOUNT = "0" * 31 + "a"
TOKEN = "secret-of-the-file"


@dataclass
class Request:
    method: str
    path: str
    token: str
    body: Any


Answer = tuple[int, Any]


@dataclass
class FakeServer:
    """Answers with what `answer` returns for a request (bytes go out as they are) and remembers requests."""

    answer: Callable[[Request], Answer] = lambda request: (200, {"success": True, "result": None})
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def will_answer(self, *answers: Answer) -> None:
        """Give these answers, one after the other."""
        waiting = iter(answers)
        self.answer = lambda request: next(waiting)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length)
            request = Request(
                method=self.command,
                path=self.path,
                token=(self.headers.get("Authorization") or "").removeprefix("Bearer "),
                body=json.loads(content) if content else None,
            )
            fake.requests.append(request)
            status, answer = fake.answer(request)
            payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PUT = do_DELETE = handle_one

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        fake.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        listener.shutdown()
        thread.join()


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`run("pipelines", "list")`, in an empty folder and without a PENSTOCK_ variable that the test did not set."""
    from penstock.cli.main import main

    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("PENSTOCK_", "AWS_")):
            monkeypatch.delenv(name)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["penstock", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), out, err)

    return run


@pytest.fixture
def write_credentials(tmp_path: Path) -> Callable[..., Path]:
    def write(url: str, folder: str = "data", token: str = TOKEN) -> Path:
        path = tmp_path / folder / "credentials.toml"
        path.parent.mkdir()
        path.write_text(f'url = "{url}"\naccount_id = "{ACCOUNT}"\ntoken = "{token}"\n')
        return path

    return write


@pytest.fixture
def pipeline(server: FakeServer) -> dict[str, Any]:
    """A pipeline as the API describes it, with a field that this version of the command does not know."""
    id = "0e00c5ff" * 4
    return {
        "id": id,
        "name": "clicks",
        "version": 1,
        "endpoint": f"{server.url}/ingest/{id}",
        "source": [
            {"type": "http", "format": "json", "authentication": False, "cors": {"origins": ["*"]}},
            {"type": "binding", "format": "json"},
        ],
        "metadata": {"shards": 2},
        "transforms": [],
        "destination": {
            "type": "r2",
            "format": "json",
            "batch": {"max_bytes": 100_000_000, "max_duration_s": 300, "max_rows": 10_000_000},
            "compression": {"type": "gzip"},
            "path": {"bucket": "my-bucket", "prefix": "raw", "filename": "${slug}${extension}"},
        },
    }
