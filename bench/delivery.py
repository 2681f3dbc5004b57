"""How fast is ingestion while files are delivered, to a folder and to S3? `python -m bench.delivery`

In turn: the floor (`bench/floor.py`, which delivers nothing), Penstock with a folder, Penstock with a bucket of an
S3 server. Batches close after a second or 20 MB, so that records are sealed, compressed, delivered and freed all
the time. The S3 server runs on the same cores and syncs to the same disk.

Two figures, because input may run ahead of delivery: records acknowledged per second of load, and the same records
by the time until the last of them was in a file. A load that goes on for long cannot be faster than the second.

**The sketch.** `bench/ingest.py` has that of ingestion. 1,000 records are 170 kB: 0.95 ms of processor at the
floor; their second life (a read of 170 kB, gzip, a write of 60 kB) took another 0.35 ms when it was measured
there. With both cores busy that is 0.7 of the floor for what is in files at the end, less the seconds that the
last batch waits. To S3 the 60 kB are hashed, sent, taken and written once more, on the same cores: about another
0.4 ms.

The records of each run are counted in its files and compared with those acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import buckets, command, load, machine, payload, servers
from bench.command import MEMORY_MB_MAX
from bench.ingest import measure, scratch
from bench.report import FSYNCED, line, memory_mb, processor_us
from bench.run import Run

BATCH_SECONDS = 1.0
SIZES = "1,100,1000"
RATIO_MIN = 0.5

_LEGEND = """\
Medians over the rounds (least to most beside); max, memory and behind are the largest; the rest are sums. "Behind"
is the time after the load until nothing waited for delivery. "In files" is the records acknowledged during the
load by the time of load and behind together; the floor has nothing to deliver."""


def _options() -> Namespace:
    parser = command.parser(
        "delivery",
        "Measure ingestion with delivery to a folder and to S3.",
        seconds=10,
        seconds_help="of load per run",
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each server per size, in turn")
    parser.add_argument("--sizes", type=command.numbers, default=command.numbers(SIZES), help="records per request")
    return parser.parse_args()


def _runs_of_size(records: int, folder: Path, given: Namespace) -> Iterator[Run]:
    """Both servers live through all rounds; nothing is left to deliver when the next run begins."""
    bodies = payload.write_bodies(folder / "bodies", records)

    def measured(name: str, server: servers.Server) -> Run:
        run = measure(name, server, records, bodies, connections=given.connections, seconds=given.seconds)
        os.sync()  # what it left to write back is not the next one's burden
        return run

    with contextlib.ExitStack() as until_the_end:
        here = until_the_end.enter_context(
            servers.penstock(given.executors, folder / "folder", batch_seconds=BATCH_SECONDS)
        )
        there = None
        if "s3" in buckets.kinds_possible():
            s3 = until_the_end.enter_context(buckets.s3_server(folder / "s3-server"))
            there = until_the_end.enter_context(
                servers.penstock(given.executors, folder / "s3", s3=s3, batch_seconds=BATCH_SECONDS)
            )
        for number in range(given.rounds):
            with servers.floor(given.executors, folder / f"floor-{number}") as floor:
                yield measured("floor", floor)
            shutil.rmtree(folder / f"floor-{number}")
            yield measured("folder", here)
            if there is not None:
                yield measured("s3", there)


def _acknowledged_per_s(run: Run) -> float:
    return run.load.requests_per_s * run.records


def _in_files_per_s(run: Run) -> float:
    return run.load.ok * run.records / (run.load.seconds + run.behind_s)


class Group:
    """The runs of one server at one size, and those of the floor beside them."""

    def __init__(self, runs: Sequence[Run], server: str, records: int) -> None:
        at_size = [run for run in runs if run.records == records]
        self.server, self.records = server, records
        self.runs = [run for run in at_size if run.server == server]
        self.floor = [run for run in at_size if run.server == "floor"]

    def ratios(self, in_files: bool) -> list[float]:
        """To the floor, round by round."""
        rate = _in_files_per_s if in_files else _acknowledged_per_s
        return [rate(ours) / rate(floor) for ours, floor in zip(self.runs, self.floor, strict=True)]


def _page(runs: Sequence[Run], facts: dict[str, str]) -> str:
    kinds = list(dict.fromkeys((run.server, run.records) for run in sorted(runs, key=lambda run: run.records)))
    groups = [Group(runs, *kind) for kind in kinds]
    ours = [group for group in groups if group.server != "floor"]
    targets = [
        (f"{group.records:,} records/request, folder: {what}, ratio to the floor", ">=", RATIO_MIN, ratio)
        for group in ours
        if group.server == "folder"
        for what, ratio in (
            ("acknowledged", statistics.median(group.ratios(in_files=False))),
            ("in files", statistics.median(group.ratios(in_files=True))),
        )
    ]
    memory = max(memory_mb(group.runs) for group in ours)
    targets.append(("memory of the tree in MB, throughout", "<", MEMORY_MB_MAX, memory))
    counts = "counts agree." if all(run.counts_agree for run in runs) else "COUNTS DIFFER."
    head: tuple[str, ...] = (
        "destination",
        "records/request",
        "records/s acknowledged",
        "in files",
        "p50 ms",
        "p99 ms",
        "max ms",
    )
    head += ("non-200", "lost", "processor µs/request", "memory MB", "files", "MB written", "behind s")
    ratio_head = ("destination", "records/request", "acknowledged, to the floor", "in files, to the floor")
    return command.page(
        "Ingestion while delivering",
        facts,
        FSYNCED,
        command.table(head, map(_row, groups)),
        _LEGEND,
        command.table(ratio_head, map(_ratio_row, ours)),
        command.targets(targets),
        counts,
    )


def _row(group: Group) -> tuple[str, ...]:
    runs = group.runs
    return (
        group.server if group.server != "floor" else "none (floor)",
        f"{group.records:,}",
        _spread([_acknowledged_per_s(run) for run in runs], ",.0f"),
        "" if group.server == "floor" else _spread([_in_files_per_s(run) for run in runs], ",.0f"),
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
    )


def _ratio_row(group: Group) -> tuple[str, ...]:
    ratios = (_spread(group.ratios(in_files), ".2f") for in_files in (False, True))
    return (group.server, f"{group.records:,}", *ratios)


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def main() -> int:
    given = _options()
    runs = []
    with scratch(given.folder) as folder:
        what_loads = f"the load generator ({load.generator()}) and the S3 server (SeaweedFS)"
        facts = machine.describe(folder, "bench.delivery", what_loads)
        for records in given.sizes:
            for run in _runs_of_size(records, folder / str(records), given):
                runs.append(run)
                command.say(line(run))
            shutil.rmtree(folder / str(records))
    command.publish("delivery", _page(runs, facts), save=given.save)
    return 0 if all(run.counts_agree for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
