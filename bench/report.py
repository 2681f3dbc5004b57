"""The result as a page of Markdown: what was measured, on what, and whether it is enough."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from bench.run import Run

FSYNCED = """\
Every 200 counted here was sent after `fdatasync` of the write-ahead log that holds its records had returned, in
the floor as in Penstock; many requests share one sync. A file is made durable, with its directory, before its
records are freed. Latency is that of a closed loop."""

_LEGEND = """\
Medians over the rounds; max, memory and behind are the largest; the rest are sums. "Behind" is the time after the
load until every acknowledged record was in a file; batches close after 5 s.
"""

#: (what, at how many records a request, the figure, at least or at most, how much)
Target = tuple[str, int, Callable[["Runs"], float], str, float]


class Runs:
    """The runs of one size."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.records = runs[0].records
        self.floor = [run for run in runs if run.server == "floor"]
        self.penstock = [run for run in runs if run.server == "penstock"]

    def ratios(self) -> list[float]:
        """Penstock to the floor in requests per second (so in records too), round by round."""
        pairs = zip(self.penstock, self.floor, strict=True)
        return [ours.load.requests_per_s / theirs.load.requests_per_s for ours, theirs in pairs]

    def ratio(self) -> float:
        return requests_per_s(self.penstock) / requests_per_s(self.floor)


def requests_per_s(runs: Sequence[Run]) -> float:
    return statistics.median(run.load.requests_per_s for run in runs)


def processor_us(runs: Sequence[Run]) -> float:
    """Processor time of the server per request, in microseconds."""
    return statistics.median(run.processor_s * 1e6 / run.load.ok for run in runs)


def memory_mb(runs: Sequence[Run]) -> float:
    return max(run.memory_bytes for run in runs) / 1e6


TARGETS: tuple[Target, ...] = (
    ("requests/s", 1, lambda r: requests_per_s(r.penstock), ">=", 10_000),
    ("requests/s, ratio to the floor", 1, Runs.ratio, ">=", 0.8),
    ("p50 in ms", 1, lambda r: statistics.median(run.load.p50_ms for run in r.penstock), "<", 5),
    ("records/s", 1_000, lambda r: requests_per_s(r.penstock) * r.records, ">=", 400_000),
    ("records/s, ratio to the floor", 1_000, Runs.ratio, ">=", 0.6),
    ("memory of the tree in MB", 1, lambda r: memory_mb(r.penstock), "<", 600),
    ("memory of the tree in MB", 1_000, lambda r: memory_mb(r.penstock), "<", 600),
)


def line(run: Run) -> str:
    """One run, while it is fresh."""
    load = run.load
    return (
        f"{run.records:5,} x {run.server:8}  {load.requests_per_s:8,.0f} requests/s  p50 {load.p50_ms:6.2f} ms  "
        f"p99 {load.p99_ms:7.2f} ms  max {load.max_ms:7.1f} ms  non-200 {load.non_200}  lost {load.lost}  "
        f"{processor_us([run]):4.0f} µs/request  {run.memory_bytes / 1e6:4.0f} MB  {run.stored.files} files  "
        f"behind {run.behind_s:4.1f} s  "
        f"{_counts(run)}"
    )


def _counts(run: Run) -> str:
    if run.counts_agree:
        return "counts agree"
    return (
        f"COUNTS DIFFER: {run.acked:,} acknowledged, {run.stored.records:,} there, "
        f"{run.unknown_max:,} with unknown outcome"
    )


def page(runs: Sequence[Run], facts: dict[str, str]) -> str:
    sizes = [Runs([run for run in runs if run.records == size]) for size in dict.fromkeys(r.records for r in runs)]
    parts = [
        "# Ingestion\n",
        "".join(f"- {name}: {fact}\n" for name, fact in facts.items()),
        FSYNCED + "\n",
        _table(sizes),
        _ratios(sizes),
        _targets(sizes),
        "\n".join(sorted({_counts(run) for run in runs})) + ".\n",
    ]
    return "\n".join(part for part in parts if part)


def _table(sizes: Sequence[Runs]) -> str:
    rows = [
        "| records/request | server | requests/s (min..max) | records/s | p50 ms | p99 ms | max ms | "
        "non-200 | lost | processor µs/request | memory MB | files | MB written | behind s |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows += [_row(runs) for size in sizes for runs in (size.floor, size.penstock) if runs]
    return "\n".join([*rows, "", _LEGEND])


def _row(runs: Sequence[Run]) -> str:
    rates = [run.load.requests_per_s for run in runs]
    cells = [
        f"{runs[0].records:,}",
        runs[0].server,
        f"{statistics.median(rates):,.0f} ({min(rates):,.0f}..{max(rates):,.0f})",
        f"{statistics.median(rates) * runs[0].records:,.0f}",
        f"{statistics.median(run.load.p50_ms for run in runs):.2f}",
        f"{statistics.median(run.load.p99_ms for run in runs):.2f}",
        f"{max(run.load.max_ms for run in runs):.0f}",
        f"{sum(run.load.non_200 for run in runs)}",
        f"{sum(run.load.lost for run in runs)}",
        f"{processor_us(runs):.0f}",
        f"{memory_mb(runs):.0f}",
        f"{sum(run.stored.files for run in runs)}",
        f"{sum(run.stored.bytes for run in runs) / 1e6:.0f}",
        f"{max(run.behind_s for run in runs):.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _ratios(sizes: Sequence[Runs]) -> str:
    both = [size for size in sizes if size.floor and size.penstock]
    if not both:
        return ""
    rows = [
        f"| {size.records:,} | {size.ratio():.2f} | {min(size.ratios()):.2f}..{max(size.ratios()):.2f} | "
        f"{processor_us(size.floor) / processor_us(size.penstock):.2f} |"
        for size in both
    ]
    head = [
        "| records/request | requests/s, Penstock to floor: of the medians | round by round | "
        "processor per request, floor to Penstock |",
        "|--:|--:|--:|--:|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def _targets(sizes: Sequence[Runs]) -> str:
    rows = []
    for what, records, figure, relation, limit in TARGETS:
        for size in sizes:
            if size.records != records or not size.penstock or ("floor" in what and not size.floor):
                continue
            value = figure(size)
            met = value >= limit if relation == ">=" else value < limit
            rows.append(
                f"| {what} | {records:,} | {relation} {limit:,} | {value:,.2f} | {'met' if met else 'MISSED'} |"
            )
    if not rows:
        return ""
    return "\n".join(["| target | records/request | | measured | |", "|---|--:|--:|--:|---|", *rows]) + "\n"
