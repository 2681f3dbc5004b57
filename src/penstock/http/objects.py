"""`/objects/<class>/<name>/…`: a request to the `fetch` of an object.

The way of an ingest request, in short: checked before its body is read, its body counted against the executor's
memory, the object called through a stub, wherever it lives. The answer comes through the object's output gate as
any result of a call does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import structlog

from penstock.apps import Application, Headers, Request, Response
from penstock.apps.application import UserClass, has_fetch
from penstock.base.errors import Internal, Invalid, NotFound, PenstockError, TooLarge
from penstock.base.limits import OBJECT_NAME_BYTES_MAX, Limits
from penstock.base.request_id import bind_request_id
from penstock.http.asgi import (
    ClientGone,
    RawHeaders,
    Receive,
    Scope,
    Send,
    TooLargeAndUnread,
    content_length,
    discard_body,
    receive_piece,
    send_answer,
    send_error,
)
from penstock.http.auth import Authenticator
from penstock.http.control import CODE_NO_ROUTE
from penstock.http.errors import public
from penstock.http.inflight import Inflight
from penstock.http.request_id import RequestIds
from penstock.objects import Runtime
from penstock.storage.disk_guard import DiskGuard

#: What bodies of requests to objects count as, among those of pipelines.
_OWNER = "objects"

log = structlog.get_logger("penstock.http")

PREFIX = b"/objects/"

#: RFC 9110, 5.6.2: what a field name is made of.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: They are about the connection, or say what the server knows better.
_NOT_THE_OBJECTS = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)
_WITHOUT_BODY = (204, 304)
#: Methods that go through when the disk has only its reserve left: they look, or make room.
_WITHOUT_ROOM = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


@dataclass(frozen=True, slots=True)
class Address:
    """What a path names: an object, and what follows its name."""

    class_name: str
    name: str
    path: str


def read_address(raw_path: bytes) -> Address:
    """Cut a path at its slashes first and decode the parts then, so that a name may hold any character, a slash
    included. Raises `NotFound`, `Invalid`."""
    parts = raw_path[len(PREFIX) :].split(b"/", 2)
    if len(parts) < 2 or not parts[1]:
        raise NotFound("An object is reached at /objects/<class>/<name>/….", code=CODE_NO_ROUTE)
    try:
        class_name, name, *rest = [unquote_to_bytes(part).decode() for part in parts]
    except UnicodeDecodeError:
        raise Invalid("Class, name and path must be percent-encoded UTF-8.") from None
    if len(name.encode()) > OBJECT_NAME_BYTES_MAX:
        raise Invalid(f"The object's name has more than {OBJECT_NAME_BYTES_MAX} bytes.")
    return Address(class_name, name, "/" + "".join(rest))


@dataclass(slots=True)
class ObjectRequestStatistics:
    """Counters since start; `refused` is by reason, the error's kind."""

    requests: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class ObjectRequests:
    def __init__(
        self,
        runtime: Runtime,
        application: Application,
        authenticator: Authenticator,
        guard: DiskGuard,
        limits: Limits,
        inflight: Inflight,
        ids: RequestIds,
    ) -> None:
        self.statistics = ObjectRequestStatistics()
        self._runtime = runtime
        self._classes = {cls.__name__: cls for cls in application.classes}
        self._authenticator = authenticator
        self._guard = guard
        self._limits = limits
        self._inflight = inflight
        self._ids = ids

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request whose path starts with `PREFIX`."""
        self.statistics.requests += 1
        request_id = self._ids.next()
        bind_request_id(request_id.decode())
        try:
            status, body, headers = _rendered(await self._fetch(scope, receive))
        except ClientGone:
            self._refused("client_gone", "The client closed the connection.", request_id)
            return
        except PenstockError as error:
            self._refused(error.kind, error.message, request_id)
            if isinstance(error, TooLargeAndUnread):
                await discard_body(scope, receive)
            await send_error(send, public(error, request_id.decode()), request_id)
            return
        except Exception as error:
            log.exception("request_failed", path=scope["path"][:200], request_id=request_id.decode())
            self._refused("internal", repr(error), request_id)
            await send_error(send, public(Internal(repr(error)), request_id.decode()), request_id)
            return
        await send_answer(send, status, body, [*headers, (b"x-request-id", request_id)])

    def _refused(self, reason: str, message: str, request_id: bytes) -> None:
        self.statistics.refused[reason] = self.statistics.refused.get(reason, 0) + 1
        log.info("request_refused", reason=reason, error=message, request_id=request_id.decode())

    async def _fetch(self, scope: Scope, receive: Receive) -> Response:
        address = read_address(scope["raw_path"])
        cls = self._classes.get(address.class_name)
        headers = _headers(scope)
        if cls is None or not cls.public:
            # Also for a class that there is not: a stranger does not learn which there are.
            await self._authenticator.require(headers.get("authorization"), "admin")
            # The token opens everything; an object has no use for it.
            headers = Headers(tuple(pair for pair in headers if pair[0] != "authorization"))
        self._require_fetch(address.class_name, cls)
        self._refuse_if_too_large(content_length(scope) or 0, unread=True)
        if scope["method"] not in _WITHOUT_ROOM:
            self._guard.check()
        body = bytearray()
        try:
            more = True
            while more:
                piece, more = await receive_piece(receive)
                body += piece
                self._inflight.add(_OWNER, len(piece))
                self._refuse_if_too_large(len(body), unread=more)
            query_string = scope["query_string"].decode("latin-1")
            request = Request(scope["method"], address.path, query_string, headers, bytes(body))
            stub = self._runtime.namespace(address.class_name).get_by_name(address.name)
            response: Response = await stub.fetch(request)
            return response
        finally:
            self._inflight.remove(_OWNER, len(body))

    def _refuse_if_too_large(self, size: int, *, unread: bool) -> None:
        if size > self._limits.body_bytes_max:
            kind = TooLargeAndUnread if unread else TooLarge
            raise kind(f"The body is larger than body_bytes_max, {self._limits.body_bytes_max} bytes.")

    def _require_fetch(self, name: str, cls: UserClass | None) -> None:
        if cls is None:
            known = ", ".join(self._classes) or "none: the server was started without --app"
            raise NotFound(f"There is no class {name[:64]!r}; known are {known}.", code=CODE_NO_ROUTE)
        if not has_fetch(cls):
            raise NotFound(
                f"{name} has no method `fetch`, so it cannot be reached over HTTP; other objects can call it.",
                code=CODE_NO_ROUTE,
            )


def _headers(scope: Scope) -> Headers:
    return Headers(tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]))


def _rendered(response: Response) -> tuple[int, bytes, RawHeaders]:
    """Status, body and headers as they are sent. Raises `Internal` for what would not be HTTP."""
    if not 200 <= response.status <= 599:
        raise Internal(f"fetch gave the status {response.status}; it must be from 200 to 599.")
    headers: RawHeaders = []
    for name, value in response.headers:
        name = name.lower()
        if not _TOKEN.fullmatch(name) or _UNSAFE.search(value):
            raise Internal(f"fetch gave a header that cannot be sent: {name!r}: {value!r}.")
        if name not in _NOT_THE_OBJECTS:
            headers.append((name.encode("ascii"), _header_value(value)))
    if response.status in _WITHOUT_BODY:
        return response.status, b"", headers
    headers.append((b"content-length", b"%d" % len(response.body)))
    return response.status, response.body, headers


def _header_value(value: str) -> bytes:
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        raise Internal(f"fetch gave a header value that is not Latin-1: {value!r}.") from None
