"""Waiting for something outside this process, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_SECONDS = 0.1


def wait(
    check: Callable[[], bool],
    seconds: float,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Ask `check` until it says yes or `seconds` have passed; returns its last answer."""
    end = now() + seconds
    while not check():
        if now() >= end:
            return check()
        sleep(POLL_SECONDS)
    return True
