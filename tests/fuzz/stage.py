"""A server with something of everything in it, and an S3 server that refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.server.harness import Server

APPLICATION = """
from penstock import App, DurableObject, Headers, Request, Response

app = App()


class Open(DurableObject):
    public = True

    async def fetch(self, request: Request) -> Response:
        self.ctx.storage.kv.put("seen", self.ctx.storage.kv.get("seen") or 0)
        return Response(request.body, headers=Headers.of({"content-type": "application/octet-stream"}))


class Shut(DurableObject):
    async def fetch(self, request: Request) -> Response:
        return Response(b"seen")


class Silent(DurableObject):
    pass


@app.transform("same")
def same(records):
    return records
"""

#: Its name, and whether it wants a token.
PIPELINES = {"open": False, "guarded": True}


class Stage:
    """The server, and what it holds that requests may name."""

    def __init__(self, server: Server, s3_url: str) -> None:
        self.server = server
        self.s3_url = s3_url
        self.account, self.token = server.credentials["account_id"], server.credentials["token"]
        self.pipeline_ids: list[str] = []
        self.object_keys: dict[str, list[str]] = {}
        self.reader = self.make_token("pipelines:read")["token"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """A request below the account with its token; gives the result."""
        answer = self.server.request(
            method,
            f"/client/v4/accounts/{self.account}{path}",
            None if body is None else json.dumps(body).encode(),
            Authorization=f"Bearer {self.token}",
        )
        return answer.json["result"]

    def make_token(self, *scopes: str) -> Any:
        return self.ask("POST", "/tokens", {"name": "made", "scopes": list(scopes)})

    def set(self) -> None:
        """Put everything back to where requests expect it."""
        self.pipeline_ids = []
        for name, authentication in PIPELINES.items():
            self.ask("DELETE", f"/pipelines/{name}?discard=true")
            settings = {
                "name": name,
                "source": [{"type": "http", "authentication": authentication, "cors": {"origins": ["*"]}}],
                "destination": {"path": {"bucket": "my-bucket"}, "batch": {"max_rows": 3}},
                "metadata": {"shards": 1},
            }
            id = self.ask("POST", "/pipelines", settings)["id"]
            self.pipeline_ids.append(id)
            self.server.request(
                "POST", f"/ingest/{id}", b'[{"n":1},{"n":2},{"n":3}]', Authorization=f"Bearer {self.token}"
            )
        self.server.request("GET", "/objects/Open/a/")
        base = "/workers/durable_objects/namespaces"
        self.object_keys = {
            namespace["id"]: [found["id"] for found in self.ask("GET", f"{base}/{namespace['id']}/objects?limit=3")]
            for namespace in self.ask("GET", base)
            if namespace["id"] in ("Open", "Silent", "Registry", "TokenRegistry")
        }


@contextmanager
def refusing_s3() -> Iterator[str]:
    """An S3 server, by its URL, that refuses every key."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _refuse(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>"
            self.send_response(403)
            self.send_header("content-type", "application/xml")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _refuse

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    (folder / "app.py").write_text(APPLICATION)
    with refusing_s3() as s3_url:
        server = Server(folder / "data", "--app", str(folder / "app.py"), executors=2)
        try:
            yield Stage(server, s3_url)
        finally:
            server.clean_up()
