"""Clients that know exactly what they know: plain sockets, no hidden retries.

An HTTP library may send a request again when a kept connection turns out closed; then "lost" and "not sent" can no
longer be told apart. Hence this one, which speaks just enough HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass

from .ledger import Ledger, Outcome, Sent, request_body

#: An answer takes milliseconds, and a killed process resets its connections. Silence for so long is a fault.
TIMEOUT_S = 10.0
#: Pause of a client after anything but 200, so that a server that starts has the processor.
BACKOFF_S = 0.05
#: How long a client that was told to stop tries to get its last request acknowledged.
GIVE_UP_S = 15.0
#: The share of requests with an Idempotency-Key that are sent again though they were acknowledged.
_SENT_AGAIN = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    path: str


class NotSent(Exception):
    """There was no connection: nothing of the request has left."""


class Lost(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One kept-alive connection, made anew when it was lost."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes, key: str | None = None) -> Answer:
        """Post to the target. Raises `NotSent`, `Lost`, or TimeoutError (sent, but never answered)."""
        return await self._request("POST", self._target.path, body, key)

    async def get(self, path: str) -> Answer:
        """Raises as `post` does."""
        return await self._request("GET", path, b"")

    async def _request(self, method: str, path: str, body: bytes, key: str | None = None) -> Answer:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._exchange(method, path, body, key)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise
            raise Lost from error

    async def _exchange(self, method: str, path: str, body: bytes, key: str | None) -> Answer:
        reader, writer = await self._connected()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._target.host}\r\nContent-Length: {len(body)}\r\n"
        head += f"Idempotency-Key: {key}\r\n\r\n" if key is not None else "\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        answer = Answer(
            int(status_line.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))
        )
        if headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # closed while idle: nothing of the next request was sent over it
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection(self._target.host, self._target.port)
            except OSError as error:
                raise NotSent from error
        return self._streams

    def close(self) -> None:
        if self._streams is not None:
            # Not `close()`, which would first wait for a killed process to take what is left in the buffer.
            self._streams[1].transport.abort()
        self._streams = None


@dataclass(frozen=True, slots=True)
class Habits:
    records_max: int
    #: Mean pause between requests.
    pause_s: float
    #: Whether it sends an Idempotency-Key, and each request until it is acknowledged.
    keyed: bool = False


class Client:
    """Sends numbered records and keeps the ledger."""

    def __init__(self, number: int, target: Target, ledger: Ledger) -> None:
        self._number = number
        self._target = target
        self._ledger = ledger
        self._sequence = 0
        self._connection = Connection(target)

    async def run(self, stop: asyncio.Event, rng: random.Random, habits: Habits) -> None:
        try:
            while not stop.is_set():
                count = rng.randrange(1, habits.records_max + 1)
                if habits.keyed:
                    await self._send_until_acked(count, stop, again=rng.random() < _SENT_AGAIN)
                elif not await self.send(count):
                    await asyncio.sleep(BACKOFF_S)
                await asyncio.sleep(rng.expovariate(1 / habits.pause_s) if habits.pause_s else 0)
        finally:
            self.close()

    def close(self) -> None:
        self._connection.close()

    async def send_afresh(self, count: int) -> bool:
        """As `send`, over a new connection: another executor may get it."""
        self._connection.close()
        return await self.send(count)

    async def metrics(self) -> str:
        """The server's metrics; nothing when it does not give any."""
        try:
            answer = await self._connection.get("/metrics")
        except (NotSent, Lost, TimeoutError):
            return ""
        return answer.body.decode() if answer.status == 200 else ""

    async def send(self, count: int) -> bool:
        """Send one request of `count` new records; whether it was acknowledged."""
        first, self._sequence = self._sequence, self._sequence + count
        sent_at = time.time()
        outcome, answer = await self._outcome(request_body(self._number, first, count), count)
        self._ledger.add(Sent(self._number, first, count, outcome, sent_at), answer)
        return outcome is Outcome.ACKED

    async def _send_until_acked(self, count: int, stop: asyncio.Event, *, again: bool) -> None:
        """Send one request of new records with an Idempotency-Key, as often as it takes; and `again` after that, as
        who does not trust the answer. However often it was sent, its records are to be there once."""
        first, self._sequence = self._sequence, self._sequence + count
        body, key = request_body(self._number, first, count), f"{self._number}-{first}"
        outcome, sent_at, gives_up_at = Outcome.REFUSED, time.time(), float("inf")
        while True:
            tried, answer = await self._outcome(body, count, key)
            if tried is not Outcome.REFUSED:
                outcome = tried
            if stop.is_set():
                gives_up_at = min(gives_up_at, time.monotonic() + GIVE_UP_S)
            if tried is Outcome.ACKED or time.monotonic() > gives_up_at:
                break
            self._ledger.answers[f"{answer}, again"] += 1
            await asyncio.sleep(BACKOFF_S)
        if again and tried is Outcome.ACKED:
            _, once_more = await self._outcome(body, count, key)
            self._ledger.answers[f"200, then {once_more}"] += 1
        self._ledger.add(Sent(self._number, first, count, outcome, sent_at), answer)

    async def _outcome(self, body: bytes, count: int, key: str | None = None) -> tuple[Outcome, str]:
        try:
            answer = await self._connection.post(body, key)
        except NotSent:
            return Outcome.REFUSED, "not sent"
        except Lost:
            return Outcome.UNKNOWN, "lost"
        except TimeoutError:
            self._ledger.violations.append(f"client {self._number}: no answer within {TIMEOUT_S:.0f} s")
            return Outcome.UNKNOWN, "timeout"
        self._complain(answer, count)
        if answer.status == 200:
            return Outcome.ACKED, "200"
        certain = answer.status < 500 or answer.status == 507
        return Outcome.REFUSED if certain else Outcome.UNKNOWN, str(answer.status)

    def _complain(self, answer: Answer, count: int) -> None:
        """Whatever happens to the server, a client sees 200, 503 or 429 with Retry-After, or a lost connection."""
        match answer.status:
            case 200 if json.loads(answer.body) == {"success": True, "result": {"committed": count}}:
                return
            case 429 | 503 if answer.headers.get("retry-after", "").isdigit():
                return
        self._ledger.violations.append(f"client {self._number} was answered {answer}")
