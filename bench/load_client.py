"""The load generator where `wrk` is missing: `load_client.py URL CONNECTIONS SECONDS BODIES`.

One asyncio protocol per connection, writing prepared requests and looking only for the status and the length of
each answer. It takes about three times the processor that wrk takes, so compare figures of one generator only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import uvloop


class Client(asyncio.Protocol):
    def __init__(self, run: Run) -> None:
        self.run = run
        self.buffer = b""
        self.sent_at = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(next(self.run.requests))

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
        self.run.non_200 += not head.startswith(b"HTTP/1.1 200")
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
    def __init__(self, url: str, bodies: Path, seconds: float) -> None:
        self.address = urlsplit(url)
        self.host, self.port = self.address.hostname or "127.0.0.1", self.address.port or 80
        self.requests = cycle([self._request(line) for line in bodies.read_bytes().splitlines()])
        self.ends_at = time.perf_counter() + seconds
        self.requests_done = self.non_200 = self.lost = 0
        self.latencies: list[float] = []

    def _request(self, body: bytes) -> bytes:
        head = f"POST {self.address.path} HTTP/1.1\r\nHost: {self.address.netloc}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def main(url: str, connections: int, seconds: float, bodies: Path) -> None:
    run = Run(url, bodies, seconds)
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Client(run), run.host, run.port)
    await asyncio.sleep(run.ends_at - time.perf_counter())
    took = time.perf_counter() - started
    run.latencies.sort()
    at = [
        int(1e6 * run.latencies[int(q * (len(run.latencies) - 1))]) if run.latencies else 0 for q in (0.5, 0.99, 1)
    ]
    result = {
        "requests": run.requests_done,
        "microseconds": int(took * 1e6),
        "non_200": run.non_200,
        "lost": run.lost,
    }
    print("RESULT " + json.dumps({**result, "p50_us": at[0], "p99_us": at[1], "max_us": at[2]}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])))
