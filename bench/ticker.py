"""Something done at intervals, beside what goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """`act` is called at once, and so many seconds after it returned, on a thread of its own until the end of the
    block, which waits for it, and raises what it raised."""
    ended = threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            act()
            while not ended.wait(seconds):
                act()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]
