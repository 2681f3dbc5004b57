"""The end of a simulated process."""

from __future__ import annotations


class Crashed(BaseException):
    """Raised out of an operation of a host that is dead, or dies in it.

    A `BaseException`, so that no handler of the code under test takes it for an error to recover from: a real
    process would not come back from such a call at all.
    """
