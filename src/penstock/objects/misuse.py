"""Whose mistake an error is that came out of an object's code."""

from __future__ import annotations

from penstock.base.errors import Internal, Invalid, NotFound, ObjectFailed, PenstockError, TooLarge

#: What the runtime refuses a wrong request with. The other kinds say that something cannot be done now.
_REFUSALS = (Invalid, NotFound, TooLarge, Internal)
_RUNTIME = ("penstock.objects.", "penstock.storage.")


def is_unmeant(error: BaseException) -> bool:
    """Whether nobody meant an object's code to raise this: it is no `PenstockError`, or one with which the runtime
    refused what the code asked of it (a wrong binding, a key too long, a method that is not there) and which the
    code let out. The object's caller did nothing wrong then. What the object's code, or that of an object that it
    called, has raised itself is meant for the caller."""
    if not isinstance(error, PenstockError):
        return True
    if error.remote or not isinstance(error, _REFUSALS) or isinstance(error, ObjectFailed):
        return False
    return _raised_in(error).startswith(_RUNTIME)


def _raised_in(error: BaseException) -> str:
    """The module whose `raise` it was; empty if it was never raised."""
    step = error.__traceback__
    if step is None:
        return ""
    while step.tb_next is not None:
        step = step.tb_next
    return str(step.tb_frame.f_globals.get("__name__", ""))
