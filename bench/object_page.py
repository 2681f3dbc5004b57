"""The result of `bench.objects` as a page of Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.object_calls import Case
from bench.object_costs import Figure

FSYNCED = """\
Every write counted here, an object's or a bare one, was answered after `fdatasync` of the write-ahead log that
holds it had returned; many writes share one sync. The first call to a new object was answered after `fsync` of its
folder too. Bare: the same statements on one connection of SQLite (WAL, synchronous=NORMAL, no checkpoints) and a
thread that syncs (`bench/bare.py`), in the process that calls. Callers form a closed loop."""

_LEGEND = """\
Medians over the rounds (calls/s: least to most beside). "Cost" is bare calls/s over ours, round by round, with the
same method and as many callers: of one bare connection, and of as many bare connections as objects, each with its
own log to sync. "Other process" pays a Unix socket too, which the bare does not. Readers let the loop turn after
each call, on both sides."""

WRITE_COST_MAX = 1.5
ACTIVE_MB_MAX = 200


@dataclass(frozen=True, slots=True)
class Result:
    cases: Sequence[Case]
    figures: Sequence[Figure]

    def bare_of(self, case: Case, spread: int = 1) -> Case:
        key = ("bare", spread, case.method, case.callers)
        return next(c for c in self.cases if (c.target.side, c.target.spread, c.method, c.callers) == key)

    def cost(self, case: Case, spread: int = 1) -> float:
        """Of a call, as a multiple of a bare one."""
        pairs = zip(case.loads, self.bare_of(case, spread).loads, strict=True)
        return statistics.median(bare.per_s / ours.per_s for ours, bare in pairs)


def per_s(case: Case) -> float:
    return statistics.median(load.per_s for load in case.loads)


def processor_us(case: Case) -> float:
    return statistics.median(load.processor_s / load.calls for load in case.loads) * 1e6


def line(case: Case) -> str:
    """One case, while it is fresh."""
    p50_ms = statistics.median(load.p50_ms for load in case.loads)
    return f"{_name(case):60} {per_s(case):10,.0f} calls/s  p50 {p50_ms:7.3f} ms  {processor_us(case):6.1f} µs/call"


def _name(case: Case) -> str:
    return f"{case.method} {case.target.side}, spread over {case.target.spread:,}, {case.callers} at once"


def page(result: Result, facts: dict[str, str]) -> str:
    parts = (
        "# Objects\n",
        "".join(f"- {name}: {fact}\n" for name, fact in facts.items()),
        FSYNCED + "\n",
        "\n".join(_calls(result)) + "\n",
        _LEGEND + "\n",
        "\n".join(_figures(result.figures)) + "\n",
        "\n".join(_targets(result)) + "\n",
        "Every acknowledged write is there, once.\n",
    )
    return "\n".join(parts)


def _calls(result: Result) -> Iterator[str]:
    yield (
        "| method | callers | objects | called | calls/s (min..max) | p50 ms | p99 ms | processor µs/call | "
        "cost to one connection | to as many |"
    )
    yield "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|"
    for case in result.cases:
        rates = [load.per_s for load in case.loads]
        cells = (
            case.method,
            f"{case.callers}",
            f"{case.target.spread:,}",
            case.target.side,
            f"{per_s(case):,.0f} ({min(rates):,.0f}..{max(rates):,.0f})",
            f"{statistics.median(load.p50_ms for load in case.loads):.3f}",
            f"{statistics.median(load.p99_ms for load in case.loads):.3f}",
            f"{processor_us(case):.1f}",
            f"{result.cost(case):.2f}",
            f"{result.cost(case, case.target.spread):.2f}",
        )
        yield _row(cells)


def _figures(figures: Sequence[Figure]) -> Iterator[str]:
    yield "| measured | | | bare | cost | |"
    yield "|---|--:|---|--:|--:|---|"
    for figure in figures:
        baseline = "" if figure.baseline is None else _number(figure.baseline)
        cost = "" if figure.multiple is None else f"{figure.multiple:.2f}"
        yield _row((figure.what, _number(figure.value), figure.unit, baseline, cost, figure.remark))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def _targets(result: Result) -> Iterator[str]:
    yield "| target | | measured | |"
    yield "|---|--:|--:|---|"
    for case in result.cases:
        if (case.target.side, case.target.spread, case.method) == ("same process", 1, "write") and case.callers > 1:
            what = f"a durable write, {case.callers} callers of one object, to the bare group-committed one"
            yield _target(what, WRITE_COST_MAX, result.cost(case), "x")
    for figure in result.figures:
        if figure.what == "memory of 1,000 active objects":
            yield _target(figure.what, ACTIVE_MB_MAX, figure.value, " MB")


def _target(what: str, limit: float, value: float, unit: str) -> str:
    return _row((what, f"<= {limit:g}{unit}", f"{value:.2f}{unit}", "met" if value <= limit else "MISSED"))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
