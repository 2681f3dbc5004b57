"""Where a long piece of work over HTTP goes on: small values that a client carries from one call to the next.

Whoever may call at all may make one up, so nothing that a cursor says is trusted but its types.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TypeVar

import msgspec
from msgspec import Struct

from penstock.base.errors import Invalid
from penstock.base.limits import CURSOR_LENGTH_MAX

T = TypeVar("T", bound=Struct)


def write_cursor(cursor: Struct) -> str:
    return urlsafe_b64encode(msgspec.json.encode(cursor)).rstrip(b"=").decode()


def read_cursor(text: str, type: type[T], code: int) -> T:
    """Raises `Invalid` with `code` for what no call gave."""
    try:
        if len(text) > CURSOR_LENGTH_MAX:
            raise ValueError(f"It has {len(text)} characters.")
        content = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        return msgspec.json.decode(content, type=type)
    except (ValueError, binascii.Error, msgspec.DecodeError, RecursionError) as error:
        raise Invalid("cursor must be one that the call before gave; leave it out to begin.", code=code) from error
