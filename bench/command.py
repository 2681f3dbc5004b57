"""What the benchmarks' commands have in common: options, and a page of Markdown as the result."""

from __future__ import annotations

import argparse
import datetime
import math
import operator
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import machine

#: Of the whole tree of processes, throughout, in every benchmark of pipelines.
MEMORY_MB_MAX = 800

_RELATIONS = {">=": operator.ge, "<=": operator.le, "<": operator.lt, "=": operator.eq}


def parser(name: str, description: str, *, seconds: float, seconds_help: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description)
    made.add_argument("--seconds", type=float, default=seconds, help=f"{seconds_help} (default: {seconds:g})")
    made.add_argument("--executors", type=int, default=2, help="processes of the server (default: 2)")
    made.add_argument("--save", action="store_true", help=f"write bench/results/{name}-<date>-<commit>.md")
    made.add_argument("--folder", type=Path, help="where data goes, and sockets, so a short path")
    return made


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def page(title: str, facts: dict[str, str], *parts: str) -> str:
    listed = "".join(f"- {name}: {fact}\n" for name, fact in facts.items())
    return "\n".join([f"# {title}\n", listed, *(part.rstrip("\n") + "\n" for part in parts if part)])


def publish(name: str, text: str, *, save: bool) -> None:
    print(text)
    if save:
        path = Path(__file__).parent / "results" / f"{name}-{datetime.date.today()}-{machine.commit()}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        say(f"written to {path}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is of words, the others of numbers."""
    shown = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([shown[0], "|---" + "|--:" * (len(head) - 1) + "|", *shown[1:]])


def targets(rows: Iterable[tuple[str, str, float, float]]) -> str:
    """Of each (what, relation, limit, measured), whether it is met. What was not measured (NaN) is not."""
    judged = [
        (what, f"{relation} {limit:g}", f"{value:,.2f}", "met" if _RELATIONS[relation](value, limit) else "MISSED")
        for what, relation, limit, value in rows
    ]
    return table(("target", "", "measured", ""), judged)


def quantile(values: Sequence[float], part: float) -> float:
    """The value that `part` (0 to 1) of all values do not exceed; NaN if there are none."""
    if not values:
        return math.nan
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
