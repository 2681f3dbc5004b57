"""Stands between the server and its S3 server, to see when an upload begins and when it is answered.

Bytes pass unchanged, the Host header too, which the requests' signatures cover.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

_PIECE_BYTES = 1 << 16


class S3Proxy:
    """`wait_begun` and `wait_answered` block, in other threads than the one of the loop that runs the proxy."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._server: asyncio.Server | None = None
        self._begun = threading.Event()
        self._answered = threading.Event()
        self._relays: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_PIECE_BYTES)

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
        await self._server.wait_closed()

    def wait_begun(self, seconds_max: float) -> None:
        """Returns right after the head of the next PUT came."""
        self._begun.clear()
        self._begun.wait(seconds_max)

    def wait_answered(self, seconds_max: float) -> None:
        """Returns about when the next PUT is answered with 200."""
        self._answered.clear()
        self._answered.wait(seconds_max)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.get_running_loop().create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            await _abort(writer)
            return
        uploading = False

        async def there() -> None:
            nonlocal uploading
            while piece := await reader.read(_PIECE_BYTES):
                if piece.startswith((b"PUT /", b"GET /", b"HEAD /", b"POST /", b"DELETE /")):
                    uploading = piece.startswith(b"PUT /")
                    if uploading:
                        self._begun.set()
                upstream.write(piece)
                await upstream.drain()

        async def back() -> None:
            while piece := await upstream_reader.read(_PIECE_BYTES):
                if uploading and piece.startswith(b"HTTP/1.1 200"):
                    self._answered.set()
                writer.write(piece)
                await writer.drain()

        ways = [asyncio.create_task(there()), asyncio.create_task(back())]
        try:
            # Whichever side goes first takes the other with it, at once, as a crash would.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await _abort(writer)
            await _abort(upstream)


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
