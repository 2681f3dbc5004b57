"""What happened, in order: the proof that the same seed gives the same run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

#: One event: virtual milliseconds, host, words.
Event = tuple[int, str, tuple[str | int, ...]]


class Trace:
    """An append-only list of events. Appending costs a tuple; all else is paid by who reads it."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.events: list[Event] = []

    def add(self, host: str, *words: str | int) -> None:
        self.events.append((self._now_ms(), host, words))

    def lines(self, last: int | None = None) -> list[str]:
        """The `last` events (all if None), one line each, for people."""
        events = self.events if last is None else self.events[-last:]
        return [f"{at_ms:>8} ms  {host:<10} {' '.join(map(str, words))}" for at_ms, host, words in events]

    def digest(self) -> str:
        """A hash of everything so far: equal digests, equal runs."""
        return hashlib.sha256(repr(self.events).encode()).hexdigest()
