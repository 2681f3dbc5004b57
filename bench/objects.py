"""What do durable objects cost beside bare SQLite? `python -m bench.objects`

Everything runs on real ports: a disk, threads, Unix sockets, uvloop. Calls are loaded in turn with the bare
statements (`bench/bare.py`), round by round, so that what else the machine does falls on both. What an object must
add to a call is a look into a table, a commit turn, two gates and the way through a stub; what it must add to a
database of its own is a sync of its own.

- calls to one object and spread over many, from the same process and from another one, reading and writing;
- objects that only exist: the start of an executor, its memory;
- objects in memory: what each takes;
- the first call to an object;
- alarms: set, due, and pending.

Where the system allows too few open files for the objects asked for, fewer are made, and the page says how many.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import machine, object_calls, object_costs, object_page
from bench.executor import be_like_an_executor
from bench.ingest import scratch
from bench.object_calls import Case
from bench.object_costs import Figure
from bench.object_page import Result


@dataclass(frozen=True, slots=True)
class Options:
    seconds: float
    rounds: int
    spread: int
    existing: int
    active: tuple[int, ...]
    activations: int
    due: int
    pending: int
    save: bool
    folder: Path | None


def options() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m bench.objects", description="Measure durable objects against bare SQLite."
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="of load per run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind of call, in turn")
    parser.add_argument("--spread", type=int, default=1_000, help="objects that calls are spread over")
    parser.add_argument("--existing", type=int, default=10_000, help="objects that are only on the disk")
    parser.add_argument("--active", default="1000,10000", help="objects in memory")
    parser.add_argument("--activations", type=int, default=300, help="first calls, of each kind")
    parser.add_argument("--due", type=int, default=10_000, help="alarms due at once, of existing objects")
    parser.add_argument("--pending", type=int, default=100_000, help="alarms that are not due")
    parser.add_argument("--save", action="store_true", help="write bench/results/objects-<date>-<commit>.md")
    parser.add_argument("--folder", type=Path, help="where data goes, and sockets, so a short path")
    given = vars(parser.parse_args())
    return Options(**{**given, "active": tuple(sorted(int(number) for number in given["active"].split(",")))})


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def _costs(folder: Path, given: Options, bare_per_s: float) -> list[Figure]:
    empty, full, alarms, active, opened = (
        folder / name for name in ("empty", "full", "alarms", "active", "opened")
    )
    for made in (empty, full, alarms, active, opened):
        made.mkdir()
    number = max(given.existing, given.due, given.activations)
    each_bytes = await object_costs.make_existing(full, number)
    figures = object_costs.existing(empty, full, number, each_bytes)
    figures += await object_costs.memory(active, given.active)
    figures += await object_costs.activation(full, opened, given.activations)
    figures += await object_costs.alarms_in_memory(alarms, given.spread, given.seconds, bare_per_s)
    figures.append(await object_costs.alarms_due(full, given.due, bare_per_s))
    figures.append(await object_costs.look(alarms, given.pending))
    return figures


def _bare_writes_per_s(cases: Sequence[Case]) -> float:
    """Of many callers, spread over many databases: what alarms are compared with, each a durable write at least."""
    writes = (case for case in cases if (case.target.side, case.method) == ("bare", "write"))
    return object_page.per_s(max(writes, key=lambda case: (case.target.spread, case.callers)))


async def measure(folder: Path, given: Options) -> Result:
    cases = await object_calls.measure(
        folder / "calls", spread=given.spread, seconds=given.seconds, rounds=given.rounds
    )
    for case in cases:
        _say(object_page.line(case))
    figures = await _costs(folder, given, _bare_writes_per_s(cases))
    return Result(cases, figures)


def main() -> int:
    given = options()
    be_like_an_executor()
    with scratch(given.folder) as folder:
        facts = machine.describe(folder, "bench.objects", "the callers")
        result = uvloop.run(measure(folder, given))
    text = object_page.page(result, facts)
    print(text)
    if given.save:
        path = Path(__file__).parent / "results" / f"objects-{datetime.date.today()}-{machine.commit()}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        _say(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
