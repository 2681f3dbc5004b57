"""Errors that a user of the command sees: one sentence on stderr, exit code 1 (2: a wrong flag), no traceback."""

from __future__ import annotations


class CliError(Exception):
    """Something that the user can act on; the message says what was tried and what to do."""

    exit_code = 1


class WrongFlag(CliError):
    """A flag has a value that it cannot have."""

    exit_code = 2


class ApiError(CliError):
    """The server answered, with an error. `status` is HTTP's, `code` the API's (0 where it gave none);
    `retry_after_s` is when to try again, where the server said."""

    def __init__(self, message: str, *, status: int, code: int = 0, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class NotVerified(CliError):
    """Whether it is as it should be is not known."""

    exit_code = 2
