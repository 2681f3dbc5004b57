"""What a worker prints, in the log."""

from __future__ import annotations

from penstock.apps.output_lines import OutputLines
from penstock.base.limits import WORKER_LINE_LENGTH_MAX, WORKER_LINES_INTERVAL_MS, WORKER_LINES_MAX


def test_lines_come_whole_however_they_were_written() -> None:
    lines = OutputLines()
    assert lines.feed(b"one\ntw", 0) == ["one"]
    assert lines.feed(b"o\r\n\n \nthr", 0) == ["two"]
    assert lines.end(0) == ["thr"]
    assert lines.end(0) == []


def test_a_long_line_is_cut_and_one_without_end_takes_no_memory() -> None:
    lines = OutputLines()
    for _ in range(1_000):
        assert lines.feed("é".encode() * 1_000, 0) == []
    (line,) = lines.feed(b"\n", 0)
    assert len(line) == WORKER_LINE_LENGTH_MAX and line.endswith("é…")
    assert lines.feed(b"short\n", 0) == ["short"]


def test_lines_above_the_budget_are_counted_and_come_again_in_the_next_interval() -> None:
    lines = OutputLines()
    assert len(lines.feed(b"x\n" * (WORKER_LINES_MAX + 3), 5)) == WORKER_LINES_MAX
    assert lines.feed(b"x\n", WORKER_LINES_INTERVAL_MS) == []
    assert lines.take_dropped() == 4
    assert lines.take_dropped() == 0
    assert lines.feed(b"y\n", WORKER_LINES_INTERVAL_MS + 5) == ["y"]


def test_bytes_that_are_no_text_are_shown() -> None:
    assert OutputLines().feed(b"a\xffb\n", 0) == ["a\\xffb"]
