"""What the head of an ingest request says."""

from __future__ import annotations

import re
from dataclasses import dataclass

from penstock.base.errors import Invalid
from penstock.base.limits import IDEMPOTENCY_KEY_LENGTH_MAX
from penstock.http.asgi import Scope

_KEY = re.compile(rf"[ -~]{{1,{IDEMPOTENCY_KEY_LENGTH_MAX}}}")


@dataclass(slots=True)
class IngestHead:
    """Headers as they came, None where there is none; `length` in bytes."""

    length: int | None = None
    authorization: str | None = None
    #: Content-Encoding; several headers are one list (RFC 9110, 5.3).
    coding: str | None = None
    origin: bytes | None = None
    #: Idempotency-Key.
    key: str | None = None
    #: Access-Control-Request-Method: makes an OPTIONS request a preflight.
    asked_method: bytes | None = None

    def checked_key(self) -> str | None:
        """The idempotency key. Raises `Invalid` for what cannot be one."""
        if self.key is not None and not _KEY.fullmatch(self.key):
            raise Invalid(
                f"Idempotency-Key must be sent once, and be 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} printable ASCII "
                "characters."
            )
        return self.key


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
            case b"idempotency-key":
                # Two make one that cannot be one.
                head.key = value.decode("latin-1") if head.key is None else f"{head.key}\n"
            case b"access-control-request-method":
                head.asked_method = value
    return head
