"""An HTTP client without a network: one request to an ASGI application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec import json

from penstock.http.app import App


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.decode(self.body)


async def ask(app: App, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    """Send one request and give the answer. `path` may have a query."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.partition("?")[0].encode(),
        "query_string": path.partition("?")[2].encode(),
        "root_path": "",
        "headers": [
            (b"host", b"sim"),
            (b"content-length", b"%d" % len(body)),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8787),
    }
    pieces = [{"type": "http.request", "body": body, "more_body": False}]
    status = 0
    answer_headers: dict[str, str] = {}
    answer = bytearray()

    async def receive() -> dict[str, Any]:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            answer_headers.update((name.decode(), value.decode()) for name, value in message["headers"])
        else:
            answer.extend(message.get("body", b""))

    await app(scope, receive, send)
    return Answer(status, answer_headers, bytes(answer))
