"""Spans: runs of messages by their sequence numbers, both ends included. Pure."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]


def runs_of(sequences: Iterable[int]) -> list[Span]:
    """The fewest spans that hold just these numbers, in order."""
    runs: list[Span] = []
    for sequence in sorted(set(sequences)):
        if runs and runs[-1][1] == sequence - 1:
            runs[-1] = (runs[-1][0], sequence)
        else:
            runs.append((sequence, sequence))
    return runs


def without(spans: list[Span], holes: list[Span]) -> list[Span]:
    """What is left of `spans` when the numbers in `holes` are taken away; both in order."""
    for low, high in holes:
        left: list[Span] = []
        for first, last in spans:
            if high < first or low > last:
                left.append((first, last))
                continue
            if first < low:
                left.append((first, low - 1))
            if high < last:
                left.append((high + 1, last))
        spans = left
    return spans
