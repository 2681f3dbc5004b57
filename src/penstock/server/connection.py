"""An HTTP/1.1 connection: uvicorn's, with bounds on what a client may have it keep, and one write an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.base.limits import HEAD_BYTES_MAX, HEAD_SECONDS_MAX, PIPELINED_REQUESTS_MAX, REQUEST_SECONDS_MAX

log = structlog.get_logger("penstock.http")

#: How often a connection is looked at; a deadline is noticed late by as much.
_WATCH_S = 2.0


class Connection(HttpToolsProtocol):
    """Closes on a client that sends too long a head, takes too long for a request, or sends ever more requests
    without reading answers: uvicorn would keep all of it in memory."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
        #: When the request that is being received began; None between two.
        self._began_s: float | None = self.loop.time()
        self._in_head = True
        #: Of the head that is being received, without the piece of data in which it began.
        self._head_bytes = 0
        self._head_is_new = True
        self._watcher = self.loop.call_later(_WATCH_S, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watcher.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and self._began_s is not None:
            if not self._head_is_new:
                self._head_bytes += len(data)
            self._head_is_new = False
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(431, "Request Header Fields Too Large", "head_too_large")
        if len(self.pipeline) > PIPELINED_REQUESTS_MAX:
            self.pipeline.clear()
            self._refuse(400, "Bad Request", "too_many_pipelined")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._began_s = self.loop.time()
        self._in_head = self._head_is_new = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._began_s = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            # uvicorn reads on after each answer, and so would take in more than it answers.
            self.flow.pause_reading()

    def _watch(self) -> None:
        seconds_max = HEAD_SECONDS_MAX if self._in_head else REQUEST_SECONDS_MAX
        late = self._began_s is not None and self.loop.time() - self._began_s > seconds_max
        # While reading is paused it is us who are slow.
        if late and not self.flow.read_paused:
            self._refuse(408, "Request Timeout", "request_timeout")
        else:
            self._watcher = self.loop.call_later(_WATCH_S, self._watch)

    def _refuse(self, status: int, phrase: str, reason: str) -> None:
        if self.transport.is_closing():
            return
        log.info("connection_refused", reason=reason, client=self.client[0] if self.client else None)
        if not self.cycle or self.cycle.response_complete or not self.cycle.response_started:
            head = f"HTTP/1.1 {status} {phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode())
        self.transport.close()


class JoinedWrites:
    """A transport that writes at the end of the loop's turn what was written during it.

    uvicorn writes an answer's head and body one by one, each with a system call of its own and each waking the
    client. Joined, a request of one record costs some 7 % less processor time.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():  # else the client left meanwhile
            self._transport.write(b"".join(pieces))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
