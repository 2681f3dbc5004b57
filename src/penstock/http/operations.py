"""What an operator's tools ask for: is it alive, is it ready, and the numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from penstock.http.auth import Authenticator
from penstock.http.control import Endpoint


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
            Endpoint("GET", "/livez", "public", self.livez),
            Endpoint("GET", "/readyz", "public", self.readyz),
            Endpoint("GET", "/metrics", "public", self.metrics),
        ]

    async def livez(self, request: Request) -> Response:
        """200 while the process answers at all."""
        return Response("ok\n", media_type="text/plain")

    async def readyz(self, request: Request) -> Response:
        """200 while the process takes work; 503 while it starts or drains."""
        if self._is_ready():
            return Response("ok\n", media_type="text/plain")
        return Response("not ready\n", 503, media_type="text/plain", headers={"retry-after": "1"})

    async def metrics(self, request: Request) -> Response:
        """All executors, in Prometheus' text format 0.0.4; also by pipeline with a token that may see all of
        them. Another token is an error: who sends one wants what it gives."""
        authorization = request.headers.get("authorization")
        if authorization is not None:
            await self._authenticator.require(authorization, "pipelines:read")
        numbers = await self._metrics(authorization is not None)
        return Response(numbers, media_type="text/plain; version=0.0.4; charset=utf-8")
