"""Long work that the API does step by step: patience with a server that is busy, or starts again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from penstock.cli import output
from penstock.cli.errors import ApiError

Json = dict[str, Any]

_TEMPORARY = (429, 503, 507)
#: Longer than an executor takes to start again.
_WAITS_S = (1, 2, 4, 8)


def patiently(call: Callable[[], Json]) -> Json:
    """The answer to a call that may be made again. Raises the error of the last try."""
    for wait_s in _WAITS_S:
        try:
            return call()
        except ApiError as error:
            if error.status not in _TEMPORARY:
                raise
            wait(error.retry_after_s or wait_s, str(error))
    return call()


def wait(seconds: int, why: str) -> None:
    output.progress(f"waiting {seconds} s: {why}")
    time.sleep(seconds)
