"""Errors, in a handful of kinds.

A kind says what the *caller* should do; the message says what to change, naming the field and the limit; the
`code` is the number that Cloudflare's clients know for the same situation. One table in `http/errors.py`
maps kinds to HTTP status. Errors cross process boundaries with all that is said about them here and are the same
on the other side.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Base of all errors that a caller is meant to see.

    `message` is a sentence for people. `code` is the wire code (0 where none is defined).
    `retry_after_s`, where given, is how long to wait before trying again, in whole seconds.
    """

    kind = "internal"
    #: The same call may succeed when it is made again, after `retry_after_s` where that is given. Whether it has
    #: been carried out already is another question: `Unavailable` does not say, the other kinds say no.
    retryable = False
    #: Refused because a budget is used up: trying again at once makes it worse.
    overloaded = False
    #: Raised by the object that was called, in its own code; False where the call did not get there, where its
    #: answer got lost, or where the object's storage failed under it.
    remote = False
    #: The object broke under the call: the stub, if it is an object's own, refuses further calls. Get a new one.
    breaks_stub = False

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


class BucketNotFound(NotFound):
    """There is no such bucket: everything put into it fails until somebody makes it, or names another."""

    kind = "bucket_not_found"


class Conflict(PenstockError):
    """It exists already, or changed meanwhile: look again before acting."""

    kind = "conflict"


class Unprocessable(PenstockError):
    """It contradicts an earlier request: change it, or what it refers to."""

    kind = "unprocessable"


class TooLarge(PenstockError):
    """More bytes than the limit allows: send less at once."""

    kind = "too_large"


class Overloaded(PenstockError):
    """A budget is used up; nothing was stored. Wait `retry_after_s`, then send the same again."""

    kind = "overloaded"
    retryable = True
    overloaded = True


class Unavailable(PenstockError):
    """It cannot be done now: a part is starting, stopping or lost. The outcome may be unknown: the work may
    have been done and only the answer lost."""

    kind = "unavailable"
    retryable = True


class StorageFull(PenstockError):
    """The disk is full; nothing was stored. It works again by itself when there is room."""

    kind = "storage_full"
    retryable = True


class Fenced(PenstockError):
    """This process may not act any more: it can no longer prove that what it writes will last."""

    kind = "fenced"


class Corrupt(PenstockError):
    """Stored bytes are not what was written. They are never served."""

    kind = "corrupt"


class Internal(PenstockError):
    """A bug of ours."""

    kind = "internal"


class ObjectFailed(Internal):
    """The code of an object's class raised something that is no `PenstockError`, or called `ctx.abort`.

    `type_name` is the exception's and the message holds its text: for the caller of the object. An HTTP client is
    told neither."""

    kind = "object_failed"

    def __init__(
        self, message: str, *, code: int = 0, retry_after_s: int | None = None, type_name: str = "Exception"
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.type_name = type_name
        self.remote = True


KINDS: dict[str, type[PenstockError]] = {
    cls.kind: cls
    for cls in (
        Invalid,
        Unauthenticated,
        Forbidden,
        NotFound,
        BucketNotFound,
        Conflict,
        Unprocessable,
        TooLarge,
        Overloaded,
        Unavailable,
        StorageFull,
        Fenced,
        Corrupt,
        Internal,
        ObjectFailed,
    )
}
