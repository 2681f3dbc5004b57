"""What the head of an ingest request says."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.http.asgi import Scope


@dataclass(slots=True)
class IngestHead:
    """Headers as they came, None where there is none; `length` in bytes."""

    length: int | None = None
    authorization: str | None = None
    #: Content-Encoding; several headers are one list (RFC 9110, 5.3).
    coding: str | None = None
    origin: bytes | None = None
    #: Access-Control-Request-Method: makes an OPTIONS request a preflight.
    asked_method: bytes | None = None


def read_head(scope: Scope) -> IngestHead:
    head = IngestHead()
    for name, value in scope["headers"]:
        match name:
            case b"content-length":
                head.length = int(value)
            case b"authorization":
                head.authorization = value.decode("latin-1")
            case b"origin":
                head.origin = value
            case b"content-encoding":
                text = value.decode("latin-1")
                head.coding = text if head.coding is None else f"{head.coding}, {text}"
            case b"access-control-request-method":
                head.asked_method = value
    return head
