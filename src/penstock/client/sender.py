"""Records on their way: split into bodies, each stored once however often it is sent."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Sequence

from isal import igzip

from penstock.base.clock import Clock
from penstock.base.errors import NotFound, PenstockError, TooLarge
from penstock.base.ids import random_id
from penstock.base.rng import Rng
from penstock.client.answers import committed_of
from penstock.client.endpoint import Endpoint, Locator
from penstock.client.errors import SendError
from penstock.client.records import body_of, split
from penstock.client.requests import Request, Requests
from penstock.client.settings import ClientSettings


class Sender:
    """Sends to one pipeline."""

    def __init__(
        self,
        locator: Locator,
        requests: Callable[[], Requests],
        settings: ClientSettings,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self.name = locator.name
        self._locator = locator
        self._requests = requests
        self._settings = settings
        self._clock = clock
        self._rng = rng

    async def endpoint(self) -> Endpoint:
        return await self._locator.find(self._give_up_ms())

    async def send(self, records: Sequence[bytes], key: str | None = None) -> int:
        """The number of records stored, which are durable. Raises `SendError` with those that are not.

        With a `key`, sending the same records once more stores nothing twice.
        """
        give_up_ms = self._give_up_ms()
        parts = deque(split(records, self._settings.body_bytes_max))
        whole = len(parts) == 1
        committed = 0
        stored: Counter[str] = Counter()
        while parts:
            part = parts[0]
            body = body_of(part)
            body_key = self._key(key, body, whole)
            try:
                committed += await self._post(body, _nth(body_key, stored[body_key]), give_up_ms)
            except PenstockError as error:
                if isinstance(error, TooLarge) and len(part) > 1:
                    # The server's limit is lower than ours.
                    middle, whole = len(part) // 2, False
                    parts.popleft()
                    parts.extendleft((part[middle:], part[:middle]))
                    continue
                unsent = [record for part in parts for record in part]
                raise SendError(error, unsent, pipeline=self.name, committed=committed) from error
            stored[body_key] += 1
            parts.popleft()
        return committed

    async def _post(self, body: bytes, key: str, give_up_ms: int) -> int:
        headers = {"content-type": "application/json", "idempotency-key": key}
        if self._settings.compression == "gzip":
            body = igzip.compress(body, mtime=0)
            headers["content-encoding"] = "gzip"
        endpoint = await self._locator.find(give_up_ms)
        try:
            return await self._post_to(endpoint, headers, body, give_up_ms)
        except NotFound:
            other = await self._locator.find_again(endpoint, give_up_ms)
            if other == endpoint:
                raise
            return await self._post_to(other, headers, body, give_up_ms)

    async def _post_to(self, endpoint: Endpoint, headers: dict[str, str], body: bytes, give_up_ms: int) -> int:
        request = Request("POST", endpoint.url, headers | endpoint.headers(), body)
        return committed_of(await self._requests().ask(request, give_up_ms), endpoint.url)

    def _key(self, key: str | None, body: bytes, whole: bool) -> str:
        """The key of a body. Of a part it holds what is in it: were parts numbered, and cut elsewhere the next
        time, then the server would take records for stored that are not."""
        if key is None:
            return random_id(self._rng)
        return key if whole else hashlib.sha256(key.encode() + b"\n" + body).hexdigest()

    def _give_up_ms(self) -> int:
        return self._clock.elapsed_ms() + self._settings.deadline_ms


def _nth(key: str, before: int) -> str:
    """The key of a body that is like `before` others of the same `send`: it is none of them sent again."""
    return hashlib.sha256(f"{key}\n{before}".encode()).hexdigest() if before else key
