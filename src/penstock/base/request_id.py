"""The id of the HTTP request that something happens for: what ties an answer to its log lines, whichever object
and executor wrote them. It goes along with the task, and with calls between executors (`objects/remote.py`)."""

from __future__ import annotations

from structlog.contextvars import bind_contextvars, get_contextvars


def bind_request_id(id: str) -> None:
    """From here on all that this task does, and the tasks that it starts, is done for this request. It is on each
    of their log lines, as `request_id`."""
    bind_contextvars(request_id=id)


def current_request_id() -> str:
    """Empty outside of a request."""
    id: str = get_contextvars().get("request_id", "")
    return id
