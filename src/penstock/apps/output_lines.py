"""What a worker prints, cut into lines for the log: bounded in length and in number. Pure."""

from __future__ import annotations

from penstock.base.limits import WORKER_LINE_LENGTH_MAX, WORKER_LINES_INTERVAL_MS, WORKER_LINES_MAX


class OutputLines:
    """At most `WORKER_LINES_MAX` lines in each `WORKER_LINES_INTERVAL_MS`; further ones are counted."""

    def __init__(self) -> None:
        self._begun = b""
        self._interval_ms: int | None = None
        self._lines = 0
        self._dropped = 0

    def feed(self, chunk: bytes, now_ms: int) -> list[str]:
        """The lines that this chunk of output ends."""
        *ended, begun = (self._begun + chunk).split(b"\n")
        # Of a line without an end no more is kept than can be shown: UTF-8 takes up to 4 bytes for a character.
        self._begun = begun[: 4 * WORKER_LINE_LENGTH_MAX + 4]
        return self._within_budget(ended, now_ms)

    def end(self, now_ms: int) -> list[str]:
        """The last line, if it has no end."""
        begun, self._begun = self._begun, b""
        return self._within_budget([begun], now_ms)

    def take_dropped(self) -> int:
        """How many lines were dropped since this was asked."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _within_budget(self, lines: list[bytes], now_ms: int) -> list[str]:
        if self._interval_ms is None or now_ms - self._interval_ms >= WORKER_LINES_INTERVAL_MS:
            self._interval_ms, self._lines = now_ms, 0
        lines = [line for line in lines if line.strip()]
        shown = lines[: WORKER_LINES_MAX - self._lines]
        self._lines += len(shown)
        self._dropped += len(lines) - len(shown)
        return [_shortened(line.decode(errors="backslashreplace").rstrip("\r")) for line in shown]


def _shortened(line: str) -> str:
    return line if len(line) <= WORKER_LINE_LENGTH_MAX else line[: WORKER_LINE_LENGTH_MAX - 1] + "…"
