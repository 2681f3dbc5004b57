"""The load generator where `wrk` is missing: `load_client.py URLS CONNECTIONS SECONDS BODIES PAUSE_MS`.

URLS are of one server, with commas between them; connections are dealt out among them.

One asyncio protocol per connection, writing prepared requests and looking only for the status and the length of
each answer. It takes about three times the processor that wrk takes, so compare figures of one generator only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import cast
from urllib.parse import SplitResult, urlsplit

import uvloop


class Client(asyncio.Protocol):
    def __init__(self, run: Run, address: int) -> None:
        self.run = run
        self.address = address
        self.buffer = b""
        self.sent_at = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self.send()

    def send(self) -> None:
        if self.transport.is_closing():
            return
        self.sent_at = time.perf_counter()
        body = next(self.run.bodies)
        self.transport.writelines([self.run.heads[self.address], b"%d\r\n\r\n" % len(body), body])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found or len(rest) < _content_length(head):
            return
        assert len(rest) == _content_length(head), "an answer to a request that was not sent"
        self.buffer = b""
        now = time.perf_counter()
        if now >= self.run.ends_at:
            self.transport.close()
            return
        self.run.requests_done += 1
        self.run.latencies.append(now - self.sent_at)
        if head.startswith(b"HTTP/1.1 200"):
            self.run.ok_of_each[self.address] += 1
        else:
            self.run.non_200 += 1
        if self.run.pause_s:
            asyncio.get_running_loop().call_later(self.run.pause_s, self.send)
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self.run.ends_at:
            self.run.lost += 1


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


class Run:
    def __init__(self, urls: list[str], bodies: Path, seconds: float, pause_s: float) -> None:
        addresses = [urlsplit(url) for url in urls]
        self.host, self.port = addresses[0].hostname or "127.0.0.1", addresses[0].port or 80
        self.heads = [_head(address) for address in addresses]
        self.bodies = cycle(bodies.read_bytes().splitlines())
        self.ends_at = time.perf_counter() + seconds
        self.pause_s = pause_s
        self.requests_done = self.non_200 = self.lost = 0
        self.ok_of_each = [0] * len(urls)
        self.latencies: list[float] = []


def _head(address: SplitResult) -> bytes:
    """All of it up to the length."""
    head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: ".encode()


async def main(urls: list[str], connections: int, seconds: float, bodies: Path, pause_s: float) -> None:
    run = Run(urls, bodies, seconds, pause_s)
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    for number in range(connections):
        address = number % len(urls)
        await loop.create_connection(partial(Client, run, address), run.host, run.port)
    await asyncio.sleep(run.ends_at - time.perf_counter())
    # The sleep may be over a little early; no answer from here on is counted, and none is followed by a request.
    run.ends_at = time.perf_counter()
    took = run.ends_at - started
    run.latencies.sort()
    at = [
        int(1e6 * run.latencies[int(q * (len(run.latencies) - 1))]) if run.latencies else 0 for q in (0.5, 0.99, 1)
    ]
    result = {
        "requests": run.requests_done,
        "microseconds": int(took * 1e6),
        "non_200": run.non_200,
        "lost": run.lost,
        "ok_of_each": run.ok_of_each,
    }
    print("RESULT " + json.dumps({**result, "p50_us": at[0], "p99_us": at[1], "max_us": at[2]}))


if __name__ == "__main__":
    _, _urls, _connections, _seconds, _bodies, _pause_ms = sys.argv
    uvloop.run(main(_urls.split(","), int(_connections), float(_seconds), Path(_bodies), int(_pause_ms) / 1000))
