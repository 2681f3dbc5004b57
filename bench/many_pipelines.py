"""Do 100 pipelines at once cost more than one, and does each get its share? `python -m bench.many_pipelines`

One server with 101 pipelines, each delivering to its own folder of a bucket every second. In turn, round by round:
all connections load one pipeline, then as many connections load the other 100, the same number each. Connections
send the next request when they were answered, so that all together ask as much as the server gives, and what a
pipeline gets is the server's doing. The generator is always the asyncio client, which can send each connection's
requests to an address of its own; it takes more of the processor than wrk, so compare figures within a page only.

**The sketch.** A hundred pipelines are 200 shards with a database each. A request costs what it costs with one;
but a commit is shared by fewer requests, and each log is synced by itself: with 100 connections up to 100 logs to
sync in a round instead of 2, 0.15 ms each one after the other: 15 ms a round, against a few before. So fewer
requests/s, how many fewer is a matter of the disk. Each second 200 files are made, each with 3 syncs and its rows
freed: another 600 syncs and 200 times 2 ms of processor, a fifth of both cores. In memory a shard takes 0.2 MB: 40
MB. What a pipeline gets depends on which executor its connections came to, which the kernel decides: with 2 each a
quarter of the pipelines has both at the busier one.
"""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import buckets, command, load, machine, payload, processes
from bench.buckets import Counted
from bench.command import MEMORY_MB_MAX
from bench.ingest import scratch
from bench.instance import Instance, instance

BATCH_SECONDS = 1.0
WARM_UP_S = 1
_DEADLINE_S = 120

_LEGEND = """\
Every 200 was sent after `fdatasync` of the log that holds its records had returned; a file is made durable, with
its directory, before its records are freed. Medians over the rounds; memory and behind are the largest; the rest
are sums. "Fairness" is the fewest requests that a pipeline got by the most, in the worst round. "Behind" is the
time after the load until nothing waited for delivery."""


@dataclass(frozen=True, slots=True)
class Round:
    """One load of one or of many pipelines."""

    pipelines: int
    load: load.Load
    processor_s: float
    behind_s: float
    memory_bytes: int

    @property
    def fairness(self) -> float:
        most = max(self.load.ok_of_each)
        return min(self.load.ok_of_each) / most if most else 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    acknowledged: int
    in_files: int
    #: Records of requests that were under way at an end, or lost.
    unknown_max: int
    files: int
    #: Pipelines with fewer records in files than were acknowledged.
    short: int

    @property
    def agree(self) -> bool:
        return not self.short and self.acknowledged <= self.in_files <= self.acknowledged + self.unknown_max


def _options() -> Namespace:
    parser = command.parser(
        "many_pipelines", "Measure 100 pipelines at once beside one.", seconds=10, seconds_help="of load per run"
    )
    parser.add_argument("--pipelines", type=int, default=100, help="(default: 100)")
    parser.add_argument("--connections", type=int, default=200, help="in all; a multiple of the pipelines")
    parser.add_argument("--records", type=int, default=100, help="per request (default: 100)")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.connections % given.pipelines:
        parser.error("--connections must be a multiple of --pipelines")
    return given


@dataclass(frozen=True, slots=True)
class _Pipeline:
    name: str
    url: str
    counted: Counted


def _create(running: Instance, count: int) -> list[_Pipeline]:
    """Each with a bucket of its own, so that its files can be counted by themselves."""
    made = []
    for number in range(count):
        name = f"many-{number}"
        bucket = buckets.Folder(running.data, name)
        made.append(_Pipeline(name, running.create(name, bucket, batch_seconds=BATCH_SECONDS), Counted(bucket)))
    return made


def _measure(
    running: Instance, pipelines: Sequence[_Pipeline], bodies: Path, given: Namespace
) -> tuple[Round, load.Load]:
    """The measured load, and the one that warmed up before."""
    urls = [pipeline.url for pipeline in pipelines]
    with processes.memory_peak(running.pids) as peak:
        warm = load.run_each(urls, bodies, connections=given.connections, seconds=min(WARM_UP_S, given.seconds))
        processor_s = processes.processor_s(running.pids)
        loaded = load.run_each(urls, bodies, connections=given.connections, seconds=given.seconds)
        processor_s = processes.processor_s(running.pids) - processor_s
        behind_s = _settle(running, pipelines)
    return Round(len(pipelines), loaded, processor_s, behind_s, peak.bytes), warm


def _settle(running: Instance, pipelines: Sequence[_Pipeline]) -> float:
    """One after the other: the last one that is asked was given the time of all."""
    behind_s = 0.0
    for pipeline in pipelines:
        waited_s = running.wait_delivered(pipeline.name, _DEADLINE_S)
        if waited_s is None:
            raise RuntimeError(f"{pipeline.name} is not delivered after {_DEADLINE_S} s: {running.said()}")
        behind_s += waited_s
    return behind_s


class _Tally:
    """What each pipeline was acknowledged, by its place among all."""

    def __init__(self, pipelines: int) -> None:
        self.ok = [0] * pipelines
        self.unknown = 0

    def add(self, first: int, loads: Sequence[load.Load], connections: int) -> None:
        for each in loads:
            for number, ok in enumerate(each.ok_of_each, first):
                self.ok[number] += ok
            self.unknown += connections + each.lost


def _count(pipelines: Sequence[_Pipeline], tally: _Tally, records: int) -> Counts:
    files = [list(pipeline.counted.look().values()) for pipeline in pipelines]
    in_files = [sum(count for count, _ in those) for those in files]
    return Counts(
        acknowledged=sum(tally.ok) * records,
        in_files=sum(in_files),
        unknown_max=tally.unknown * records,
        files=sum(map(len, files)),
        short=sum(there < ok * records for there, ok in zip(in_files, tally.ok, strict=True)),
    )


def _measure_all(folder: Path, given: Namespace) -> tuple[list[Round], Counts]:
    bodies = payload.write_bodies(folder / "bodies", given.records)
    rounds = []
    with instance(folder / "penstock", given.executors) as running:
        pipelines = _create(running, given.pipelines + 1)
        tally = _Tally(len(pipelines))
        for _ in range(given.rounds):
            for first, those in ((0, pipelines[:1]), (1, pipelines[1:])):
                measured, warm = _measure(running, those, bodies, given)
                tally.add(first, (warm, measured.load), given.connections)
                rounds.append(measured)
                command.say(_line(measured, given.records))
    return rounds, _count(pipelines, tally, given.records)


def _line(measured: Round, records: int) -> str:
    return (
        f"{measured.pipelines:4} pipelines  {measured.load.requests_per_s * records:10,.0f} records/s  "
        f"fairness {measured.fairness:.2f}  {measured.memory_bytes / 1e6:.0f} MB  behind {measured.behind_s:.1f} s"
    )


def _page(rounds: Sequence[Round], counts: Counts, records: int, facts: dict[str, str]) -> str:
    kinds = [
        [each for each in rounds if each.pipelines == number] for number in sorted({r.pipelines for r in rounds})
    ]
    pairs = zip(rounds[0::2], rounds[1::2], strict=True)
    ratios = [many.load.requests_per_s / one.load.requests_per_s for one, many in pairs]
    head: tuple[str, ...] = (
        "pipelines",
        "records/s (min..max)",
        "requests/s of each, fewest",
        "most",
        "fairness",
        "p50 ms",
        "p99 ms",
    )
    head += ("max ms", "non-200", "lost", "processor µs/request", "memory MB", "behind s")
    memory = max(each.memory_bytes for each in rounds) / 1e6
    agree = "counts agree" if counts.agree else f"COUNTS DIFFER, in {counts.short} pipelines for the worse"
    return command.page(
        "Many pipelines at once",
        facts,
        command.table(head, [_row(kind, records) for kind in kinds]),
        _LEGEND,
        f"Records/s of many to one, round by round: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f}..{max(ratios):.2f}).",
        command.targets([("memory of the tree in MB, throughout", "<", MEMORY_MB_MAX, memory)]),
        f"{agree}: {counts.acknowledged:,} records acknowledged, {counts.in_files:,} in {counts.files:,} files, "
        f"at most {counts.unknown_max:,} with unknown outcome.",
    )


def _row(kind: Sequence[Round], records: int) -> tuple[str, ...]:
    rates = [each.load.requests_per_s * records for each in kind]
    return (
        f"{kind[0].pipelines}",
        f"{statistics.median(rates):,.0f} ({min(rates):,.0f}..{max(rates):,.0f})",
        f"{statistics.median(min(each.load.ok_of_each) / each.load.seconds for each in kind):,.1f}",
        f"{statistics.median(max(each.load.ok_of_each) / each.load.seconds for each in kind):,.1f}",
        f"{min(each.fairness for each in kind):.2f}",
        f"{statistics.median(each.load.p50_ms for each in kind):.2f}",
        f"{statistics.median(each.load.p99_ms for each in kind):.2f}",
        f"{max(each.load.max_ms for each in kind):.0f}",
        f"{sum(each.load.non_200 for each in kind)}",
        f"{sum(each.load.lost for each in kind)}",
        f"{statistics.median(each.processor_s * 1e6 / max(1, each.load.ok) for each in kind):.0f}",
        f"{max(each.memory_bytes for each in kind) / 1e6:.0f}",
        f"{max(each.behind_s for each in kind):.1f}",
    )


def main() -> int:
    given = _options()
    with scratch(given.folder) as folder:
        facts = machine.describe(folder, "bench.many_pipelines", "the load generator (asyncio client)")
        rounds, counts = _measure_all(folder, given)
    command.publish("many_pipelines", _page(rounds, counts, given.records, facts), save=given.save)
    return 0 if counts.agree else 1


if __name__ == "__main__":
    sys.exit(main())
