"""What an operator's tools ask for: is it alive, is it ready, and the numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from penstock.http.auth import Authenticator
from penstock.http.control import Endpoint
from penstock.http.description import plain

_TEXT = "text/plain"


class OperationRoutes:
    """These are public: they reveal counts, and the name of no tenant's thing unless a token comes with the
    request."""

    def __init__(
        self,
        is_ready: Callable[[], bool],
        metrics: Callable[[bool], Awaitable[bytes]],
        authenticator: Authenticator,
    ) -> None:
        self._authenticator = authenticator
        self._is_ready = is_ready
        self._metrics = metrics
        self.endpoints = [
            Endpoint("GET", "/livez", "public", self.livez, tag="Operation", answers=(plain(_TEXT),)),
            Endpoint(
                *("GET", "/readyz", "public", self.readyz),
                tag="Operation",
                answers=(plain(_TEXT, "Ready."), plain(_TEXT, "Not ready.", 503)),
            ),
            Endpoint(
                *("GET", "/metrics", "public", self.metrics),
                tag="Operation",
                answers=(plain(_TEXT, "Prometheus' text format 0.0.4."),),
                more_with="pipelines:read",
            ),
        ]

    async def livez(self, request: Request) -> Response:
        """Check that the process lives.

        It answers at all.
        """
        return Response("ok\n", media_type=_TEXT)

    async def readyz(self, request: Request) -> Response:
        """Check that the process takes work.

        503 while it starts or drains. The executor that the kernel gave the connection to answers for itself.
        """
        if self._is_ready():
            return Response("ok\n", media_type=_TEXT)
        return Response("not ready\n", 503, media_type=_TEXT, headers={"retry-after": "1"})

    async def metrics(self, request: Request) -> Response:
        """Get metrics.

        The numbers of all executors, in Prometheus' text format. With a token that may read all pipelines there are
        also those by pipeline.
        """
        authorization = request.headers.get("authorization")
        if authorization is not None:
            # A token that may not is an error: who sends one wants what it gives.
            await self._authenticator.require(authorization, "pipelines:read")
        numbers = await self._metrics(authorization is not None)
        return Response(numbers, media_type="text/plain; version=0.0.4; charset=utf-8")
