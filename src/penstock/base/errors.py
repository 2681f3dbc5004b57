"""Errors, in a handful of kinds.

A kind says what the *caller* should do; the message says what to change, naming the field and the limit; the
`code` is the number that Cloudflare's clients know for the same situation. One table in `http/errors.py`
maps kinds to HTTP status. Errors cross process boundaries as (kind, message, code, retry_after_s) and are the
same on the other side.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Base of all errors that a caller is meant to see.

    `message` is a sentence for people. `code` is the wire code (0 where none is defined).
    `retry_after_s`, where given, is how long to wait before trying again, in whole seconds.
    """

    kind = "internal"

    def __init__(self, message: str, *, code: int = 0, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s


class Invalid(PenstockError):
    """The request is wrong and will stay wrong: change it."""

    kind = "invalid"


class Unauthenticated(PenstockError):
    """No token, or not one of ours."""

    kind = "unauthenticated"


class Forbidden(PenstockError):
    """The token is known but does not cover this."""

    kind = "forbidden"


class NotFound(PenstockError):
    """There is no such thing (any more)."""

    kind = "not_found"


class Conflict(PenstockError):
    """It exists already, or changed meanwhile: look again before acting."""

    kind = "conflict"


class TooLarge(PenstockError):
    """More bytes than the limit allows: send less at once."""

    kind = "too_large"


class Overloaded(PenstockError):
    """A budget is used up; nothing was stored. Wait `retry_after_s`, then send the same again."""

    kind = "overloaded"


class Unavailable(PenstockError):
    """It cannot be done now: a part is starting, stopping or lost. The outcome may be unknown: the work may
    have been done and only the answer lost."""

    kind = "unavailable"


class StorageFull(PenstockError):
    """The disk is full; nothing was stored. It works again by itself when there is room."""

    kind = "storage_full"


class Fenced(PenstockError):
    """This process may not act any more: it can no longer prove that what it writes will last."""

    kind = "fenced"


class Corrupt(PenstockError):
    """Stored bytes are not what was written. They are never served."""

    kind = "corrupt"


class Internal(PenstockError):
    """A bug of ours."""

    kind = "internal"


KINDS: dict[str, type[PenstockError]] = {
    cls.kind: cls
    for cls in (
        Invalid,
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        TooLarge,
        Overloaded,
        Unavailable,
        StorageFull,
        Fenced,
        Corrupt,
        Internal,
    )
}
