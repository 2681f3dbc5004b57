"""The ASGI application of an executor: the ingest path first, then objects, everything else through the control
API."""

from __future__ import annotations

from penstock.http.asgi import Receive, Scope, Send
from penstock.http.asgi_operations import ingest_operations, object_operations
from penstock.http.control import Control
from penstock.http.description import Operation
from penstock.http.ingest import Ingest
from penstock.http.objects import PREFIX, ObjectRequests

_INGEST = "/ingest/"
_HOST_SUFFIX = ".localhost"


class App:
    def __init__(self, ingest: Ingest, objects: ObjectRequests, control: Control) -> None:
        self.ingest = ingest
        self.objects = objects
        self.control = control

    @property
    def operations(self) -> list[Operation]:
        """All that it serves."""
        return [
            *ingest_operations(self.ingest.limits),
            *(endpoint.operation for endpoint in self.control.endpoints),
            *object_operations(),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        pipeline = _addressed_pipeline(scope)
        if pipeline is not None:
            await self.ingest.handle(pipeline, scope, receive, send)
        elif scope["raw_path"].startswith(PREFIX):
            await self.objects.handle(scope, receive, send)
        else:
            await self.control.app(scope, receive, send)


def _addressed_pipeline(scope: Scope) -> str | None:
    """The id in `/ingest/<id>`, or in a Host of `<id>.localhost` at `/`."""
    path: str = scope["path"]
    if path.startswith(_INGEST):
        return path[len(_INGEST) :]
    if path == "/":
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1").rsplit(":", 1)[0].lower()
                return host.removesuffix(_HOST_SUFFIX) if host.endswith(_HOST_SUFFIX) else None
    return None
