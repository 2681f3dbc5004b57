"""Plain ASGI, for the paths on which each layer counts: receiving a body within its bounds, sending an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from msgspec import json

from penstock.base.errors import PenstockError, TooLarge
from penstock.base.limits import DISCARDED_BYTES_MAX
from penstock.http.errors import headers_of, status_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed the connection before its body was complete: there is nobody to answer."""


class TooLargeAndUnread(TooLarge):
    """Some of the body is still to come: see `discard_body`."""


async def receive_piece(receive: Receive) -> tuple[bytes, bool]:
    """The next piece of a body, and whether more follows. Raises `ClientGone`."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


async def discard_body(scope: Scope, receive: Receive) -> None:
    """Read what is left of a body that is too large. Many clients send all of it before they read the answer, and a
    connection that is closed on unread data is reset: they would see no answer at all. Those that asked first
    (`Expect: 100-continue`) get it at once, and so do those that would send very much."""
    headers = dict(scope["headers"])
    if b"expect" in headers or int(headers.get(b"content-length", 0)) > DISCARDED_BYTES_MAX:
        return
    discarded, more = 0, True
    while more and discarded <= DISCARDED_BYTES_MAX:
        message = await receive()
        discarded += len(message.get("body", b""))
        more = message.get("more_body", False)


def content_length(scope: Scope) -> int | None:
    """What the client says that its body has."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return None


async def send_answer(send: Send, status: int, body: bytes, headers: RawHeaders) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, body: bytes, headers: RawHeaders) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send_answer(send, status, body, head)


async def send_error(
    send: Send, error: PenstockError, request_id: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """An error in the shape of the ingest endpoint, with `headers` beside those of the error's kind."""
    more = [*headers_of(error), *headers]
    if isinstance(error, TooLarge):
        more.append((b"connection", b"close"))  # what `discard_body` left is not read
    body = json.encode({"success": False, "error": {"code": error.code, "message": error.message}})
    await send_json(send, status_of(error), body, [*more, (b"x-request-id", request_id)])
