"""The body of an ingest request: received and, if encoded, inflated, within the limits of size and memory."""

from __future__ import annotations

import asyncio

from penstock.base.clock import Clock
from penstock.base.errors import TooLarge
from penstock.http.asgi import Receive, TooLargeAndUnread, receive_piece
from penstock.http.content_coding import inflate
from penstock.http.inflight import InflightShare


class IngestBodies:
    def __init__(self, bytes_max: int, clock: Clock) -> None:
        self._bytes_max = bytes_max
        self._clock = clock
        #: One body at a time: several at once would be ready no sooner, and each holds a window of up to 8 MiB.
        self._inflating = asyncio.Lock()

    async def receive(self, receive: Receive, share: InflightShare) -> bytes | bytearray:
        """The body as it was sent. Raises `TooLarge`, `Overloaded`, `ClientGone`."""
        piece, more = await receive_piece(receive)
        share.add(len(piece))
        if not more:
            # The common case: the whole body in one piece, used as it is.
            self.check_size(len(piece), unread=False)
            return piece
        body = bytearray(piece)
        while more:
            self.check_size(len(body), unread=True)
            piece, more = await receive_piece(receive)
            body += piece
            share.add(len(piece))
        self.check_size(len(body), unread=False)
        return body

    async def inflated(self, coding: str, body: bytes | bytearray, share: InflightShare) -> bytearray:
        """The content of an encoded body, which takes the body's place in `share`. Others have their turn between
        two steps. Raises `Invalid`, `TooLarge`, `Overloaded`."""
        content = bytearray()
        async with self._inflating:
            for piece in inflate(coding, body):
                if content or not piece:
                    await self._clock.sleep_ms(0)
                content += piece
                share.add(len(piece))
                self.check_size(len(content), unread=False)
        share.remove(len(body))
        return content

    def check_size(self, size: int, *, unread: bool) -> None:
        """`unread`: there is more to come. Raises `TooLarge`."""
        if size > self._bytes_max:
            kind = TooLargeAndUnread if unread else TooLarge
            raise kind(
                f"The body is larger than body_bytes_max, {self._bytes_max} bytes (at least {size} were sent). "
                "Send fewer records at once.",
            )
