"""Where a pipeline's records go: an address that is given, or one that is found by the pipeline's name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote

from penstock.base.errors import PenstockError
from penstock.client.answers import result_of
from penstock.client.requests import Request, Requests
from penstock.client.target import Target


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An ingest endpoint, and the token that is sent along, if any."""

    url: str
    token: str | None = field(repr=False)

    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}


class Locator(Protocol):
    """Finds an endpoint. `name` is what it is called in errors."""

    name: str

    async def find(self, give_up_ms: int) -> Endpoint:
        """Raises `PenstockError` if there is none, or it did not turn up by then (elapsed time)."""
        ...

    async def find_again(self, wrong: Endpoint, give_up_ms: int) -> Endpoint:
        """The endpoint, now that `wrong` is known to be there no more; the same if there is no other."""
        ...


class Fixed:
    """An endpoint that was given."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.url
        self._endpoint = endpoint

    async def find(self, give_up_ms: int) -> Endpoint:
        return self._endpoint

    async def find_again(self, wrong: Endpoint, give_up_ms: int) -> Endpoint:
        return self._endpoint


class ByName:
    """Asks the control API once, and again when the pipeline was deleted, since another may have its name now."""

    def __init__(self, name: str, target: Target, requests: Callable[[], Requests]) -> None:
        self.name = name
        self._target = target
        self._requests = requests
        self._found: Endpoint | None = None
        self._asking = asyncio.Lock()

    async def find(self, give_up_ms: int) -> Endpoint:
        async with self._asking:
            if self._found is None:
                self._found = await self._ask(give_up_ms)
            return self._found

    async def find_again(self, wrong: Endpoint, give_up_ms: int) -> Endpoint:
        if self._found == wrong:
            self._found = None
        return await self.find(give_up_ms)

    async def _ask(self, give_up_ms: int) -> Endpoint:
        url, token = self._target.url.value, self._target.token.value
        account, name = quote(self._target.account_id.value, safe=""), quote(self.name, safe="")
        request = Request(
            "GET",
            f"{url}/client/v4/accounts/{account}/pipelines/{name}",
            {"authorization": f"Bearer {token}", "accept": "application/json"},
        )
        try:
            pipeline = result_of(await self._requests().ask(request, give_up_ms), request.url)
        except PenstockError as error:
            if error.kind in ("unauthenticated", "forbidden"):
                # Which of several tokens it was is what one needs to know.
                error.message = f"{url} refused the token from {self._target.token.origin}: {error.message}"
                error.args = (error.message,)
            raise
        # Not the answer's `endpoint`: it may name another scheme or host, behind a proxy say, and the token is for
        # the server that was asked.
        return Endpoint(f"{url}/ingest/{quote(str(pipeline.get('id')), safe='')}", token)
