"""The one place where an error's kind becomes an HTTP status."""

from __future__ import annotations

from penstock.base.errors import Corrupt, Internal, Invalid, PenstockError

RawHeaders = tuple[tuple[bytes, bytes], ...]

STATUS = {
    "invalid": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "bucket_not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "unprocessable": 422,
    "overloaded": 429,
    "internal": 500,
    "object_failed": 500,
    "corrupt": 500,
    "unavailable": 503,
    "fenced": 503,
    "storage_full": 507,
}


class HttpOnly(Invalid):
    """Wrong in a way that only HTTP knows: it has a status, and maybe headers, of its own."""

    status = 400

    def __init__(self, message: str, *, headers: RawHeaders = ()) -> None:
        super().__init__(message)
        self.headers = headers


class MethodNotAllowed(HttpOnly):
    """The path is not for this method; `allow` tells which (RFC 9110, 15.5.6): give it in `headers`."""

    status = 405


class UnsupportedEncoding(HttpOnly):
    """The body is encoded in a way that is not taken; `accept-encoding` tells which are (RFC 9110, 15.5.16): give
    it in `headers`."""

    status = 415


def public(error: PenstockError, request_id: str) -> PenstockError:
    """What a client is told. The text of a bug or of damage is for the log: it may hold anything."""
    if isinstance(error, (Internal, Corrupt)):
        return Internal(f"Something went wrong; the server's log has the details under request id {request_id}.")
    return error


def status_of(error: PenstockError) -> int:
    return status_of_kind(type(error))


def status_of_kind(kind: type[PenstockError]) -> int:
    return kind.status if issubclass(kind, HttpOnly) else STATUS[kind.kind]


def headers_of(error: PenstockError) -> list[tuple[bytes, bytes]]:
    """What a client needs to know to act on the error by itself."""
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, HttpOnly):
        headers.extend(error.headers)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.kind == "conflict":
        # Cloudflare's SDKs would retry a 409, which here never changes anything.
        headers.append((b"x-should-retry", b"false"))
    if error.kind == "unauthenticated":
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
