"""What an answer means: the table of `http/errors.py`, read from the other side. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.base.errors import (
    Conflict,
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    Overloaded,
    PenstockError,
    StorageFull,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)
from penstock.client.retry import retry_after_ms

_KINDS: dict[int, type[PenstockError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    413: TooLarge,
    422: Unprocessable,
    429: Overloaded,
    500: Internal,
    507: StorageFull,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def error_of(answer: Answer, url: str, now_ms: int) -> PenstockError:
    """The error that an answer other than 2xx stands for; `url` is who gave it."""
    status = answer.status
    kind = _KINDS.get(status, Unavailable if status >= 500 else Invalid)
    message, code = _reason(answer, url)
    after_ms = retry_after_ms(answer.headers.get("retry-after"), now_ms)
    return kind(message, code=code, retry_after_s=None if after_ms is None else -(-after_ms // 1000))


def committed_of(answer: Answer, url: str) -> int:
    """How many records an ingest endpoint stored. Raises `Invalid` if that is not what it says."""
    committed = result_of(answer, url).get("committed")
    if not isinstance(committed, int):
        raise _not_ours(answer, url)
    return committed


def result_of(answer: Answer, url: str) -> dict[str, Any]:
    """The `result` of a 2xx answer. Raises `Invalid` if it has none."""
    content = _json(answer)
    result = content.get("result")
    if content.get("success") is not True or not isinstance(result, dict):
        raise _not_ours(answer, url)
    return result


def _reason(answer: Answer, url: str) -> tuple[str, int]:
    """The message and the code: `errors` of the control API or ingestion's `error`."""
    if 300 <= answer.status < 400:
        # Following it would carry records and token to whatever it names.
        return f"{url} redirects to {answer.headers.get('location', 'nowhere')!r}: give the client that address.", 0
    content = _json(answer)
    errors = content.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else content.get("error")
    if not isinstance(first, dict):
        return f"{url} answered with status {answer.status} and gave no reason.", 0
    code = first.get("code")
    return str(first.get("message")), code if isinstance(code, int) else 0


def _json(answer: Answer) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _not_ours(answer: Answer, url: str) -> Invalid:
    return Invalid(
        f"{url} answered with status {answer.status} and not with the JSON of the API: is it a Penstock server?"
    )
