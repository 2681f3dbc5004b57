"""What does a quiet pipeline notice of a hot one beside it? `python -m bench.fairness`

Ten quiet pipelines with 5 requests a second each, of one record, and a hot one that gets 1,000 times as many as
each of them: in turn without it and with it, round by round. The promise is that the p99 of the quiet ones is at
most twice what it is without. Two latencies of the quiet ones: from the request to its 200, and from the request
to the moment at which a reader of the bucket sees the file with the record (the dwell). Batches close after 0.25
s, the least there is. Several quiet pipelines instead of one, for a p99 of some hundred latencies within a minute.

The hot pipeline's requests come from a generator whose connections pause between requests, such that together they
come near the rate wanted; the page says what was reached. The generator and the quiet sender share the cores with
the server, so some of what the quiet ones notice is that.

**The sketch.** The hot pipeline takes 5,000 requests/s at about 75 µs: 0.4 of two cores, with the generator half
of them. A quiet request waits in an executor's loop behind what the hot one has there: at half load one or two
requests, 0.1 ms, or a turn with a commit or the freeing of a slice, some ms: this is the p99. Its log is synced in
a round with the hot one's: 2 syncs instead of one, 0.3 ms. Alone, p99 is about 3 ms, mostly of seals and files of
other quiet ones. So up to twice for the 200. The dwell is 250 ms and the same few ms: 1.05.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import buckets, command, load, machine, payload, probe, processes
from bench.command import MEMORY_MB_MAX, quantile
from bench.ingest import scratch
from bench.instance import Instance, instance

LOOK_S = 0.02
RATIO_MAX = 2.0
_DEADLINE_S = 60
#: What an answer is taken to take, before a trial has shown it: connections pause that much less.
_ANSWER_MS = 2
_TRIAL_S = 2.0
#: Less of the wanted rate does not count: the ratio would be of something easier.
_TIMES_PART_MIN = 0.9
#: The hot generator runs a little longer than the quiet ones send.
_MARGIN_S = 2
_WARM_UP_S = 1.0

_LEGEND = """\
Every 200 was sent after `fdatasync` of the log that holds its records had returned; a file is made durable, with
its directory, before its records are freed. Latencies of all quiet pipelines together, in each round. "Alone" and
"beside" follow each other, and the ratio is of such a pair. "Times" is the requests per second that the hot
pipeline got, by those of one quiet pipeline."""


@dataclass(frozen=True, slots=True)
class Round:
    """The quiet pipelines for some seconds, alone or beside the hot one."""

    beside: bool
    answer_ms: Sequence[float]
    dwell_ms: Sequence[float]
    #: Quiet requests that were not answered with 200, and acknowledged records that no file has, or two have.
    refused: int
    wrong: int
    hot: load.Load | None
    #: Requests per second of the hot one by those of one quiet one.
    times: float
    memory_bytes: int


def _options() -> Namespace:
    parser = command.parser(
        "fairness", "Measure a quiet pipeline beside a hot one.", seconds=20, seconds_help="of each round"
    )
    parser.add_argument("--quiet", type=int, default=10, help="quiet pipelines (default: 10)")
    parser.add_argument("--rate", type=float, default=5, help="requests/s of each quiet pipeline (default: 5)")
    parser.add_argument("--times", type=float, default=1_000, help="as much gets the hot one (default: 1000)")
    parser.add_argument("--connections", type=int, default=64, help="of the hot one (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs, alone and beside")
    return parser.parse_args()


async def _load(
    urls: Sequence[str], hot_url: str | None, pause_ms: int, bodies: Path, given: Namespace, name: str
) -> tuple[list[probe.Sent], load.Load | None]:
    quiet = probe.send(urls, per_s=given.rate, seconds=given.seconds, name=name)
    if hot_url is None:
        return await quiet, None
    seconds = given.seconds + _MARGIN_S
    hot = asyncio.create_task(
        asyncio.to_thread(
            load.run, hot_url, bodies, connections=given.connections, seconds=seconds, pause_ms=pause_ms
        )
    )
    await asyncio.sleep(_MARGIN_S / 2)  # until it is at its rate
    return await quiet, await hot


def _pause_ms(hot_url: str, bodies: Path, given: Namespace) -> int:
    """How long the hot one's connections must pause to be near the rate wanted. It warms it up, too."""
    cycle_ms = given.connections / (given.rate * given.times) * 1e3
    pause_ms = max(0, round(cycle_ms - _ANSWER_MS))
    seconds = min(_TRIAL_S, given.seconds)
    trial = load.run(hot_url, bodies, connections=given.connections, seconds=seconds, pause_ms=pause_ms)
    answer_ms = given.connections / trial.requests_per_s * 1e3 - pause_ms
    return max(0, int(cycle_ms - answer_ms))


def _measure(
    running: Instance, number: int, hot_url: str | None, pause_ms: int, bodies: Path, given: Namespace
) -> Round:
    """With quiet pipelines and a bucket of its own, which the reader looks at: looks must not become dearer."""
    name = f"{'alone' if hot_url is None else 'beside'}-{number}"
    bucket = buckets.Folder(running.data, name)
    names = [f"{name}-{quiet}" for quiet in range(given.quiet)]
    urls = [running.create(each, bucket, prefix=each) for each in names]
    uvloop.run(probe.send(urls, per_s=given.rate, seconds=_WARM_UP_S, name="warm"))
    with processes.memory_peak(running.pids) as peak, probe.watched(bucket, LOOK_S) as watch:
        sent, hot = uvloop.run(_load(urls, hot_url, pause_ms, bodies, given, name))
        for each in names:
            if running.wait_delivered(each, _DEADLINE_S) is None:
                raise RuntimeError(f"{each} is not delivered after {_DEADLINE_S} s: {running.said()}")
    watch.look()
    times = 0.0 if hot is None else hot.requests_per_s / given.rate
    return _round(sent, watch, hot, times, peak.bytes)


def _round(
    sent: Sequence[probe.Sent], watch: probe.Watch, hot: load.Load | None, times: float, memory_bytes: int
) -> Round:
    by_record = {one.record: one for one in sent}
    visible = [found for file in watch.records() for found in file if found[0] in by_record]
    there = [record for record, _ in visible]
    acknowledged = {one.record for one in sent if one.ok_s is not None}
    return Round(
        beside=hot is not None,
        answer_ms=[(one.ok_s - one.sent_s) * 1e3 for one in sent if one.ok_s is not None],
        dwell_ms=[(seen_s - by_record[record].sent_s) * 1e3 for record, seen_s in visible],
        refused=len(sent) - len(acknowledged),
        wrong=len(acknowledged - set(there)) + len(there) - len(set(there)),
        hot=hot,
        times=times,
        memory_bytes=memory_bytes,
    )


def _measure_all(folder: Path, given: Namespace) -> list[Round]:
    bodies = payload.write_bodies(folder / "bodies", 1)
    rounds = []
    with instance(folder / "penstock", given.executors) as running:
        hot_url = running.create("hot", buckets.Folder(running.data, "hot"))
        pause_ms = _pause_ms(hot_url, bodies, given)
        for number in range(given.rounds):
            for url in (None, hot_url):
                rounds.append(_measure(running, number, url, pause_ms, bodies, given))
                command.say(_line(rounds[-1]))
            if running.wait_delivered("hot", _DEADLINE_S) is None:
                raise RuntimeError(f"the hot one is not delivered after {_DEADLINE_S} s: {running.said()}")
    return rounds


def _line(one: Round) -> str:
    return (
        f"{'beside' if one.beside else 'alone':6}  200: p99 {quantile(one.answer_ms, 0.99):.1f} ms  "
        f"dwell: p99 {quantile(one.dwell_ms, 0.99):.0f} ms  {one.times:,.0f} times"
    )


def _page(rounds: Sequence[Round], times: float, facts: dict[str, str]) -> str:
    head: tuple[str, ...] = ("quiet pipelines", "requests", "not 200", "request to 200, p50 ms", "p99 ms", "max ms")
    head += (
        "request to visible, p50 ms",
        "p99 ms",
        "max ms",
        "hot requests/s",
        "times",
        "hot non-200",
        "memory MB",
    )
    alone, beside = ([one for one in rounds if one.beside is which] for which in (False, True))
    answer_ratios = _ratios([one.answer_ms for one in alone], [one.answer_ms for one in beside])
    dwell_ratios = _ratios([one.dwell_ms for one in alone], [one.dwell_ms for one in beside])
    memory = max(one.memory_bytes for one in rounds) / 1e6
    wrong = sum(one.wrong for one in rounds)
    return command.page(
        "A quiet pipeline beside a hot one",
        facts,
        command.table(head, map(_row, rounds)),
        _LEGEND,
        f"p99 beside to alone, round by round: of the 200 {_listed(answer_ratios)}; of the dwell "
        f"{_listed(dwell_ratios)}.",
        command.targets(
            [
                (
                    "request to visible (dwell), p99, beside to alone",
                    "<=",
                    RATIO_MAX,
                    statistics.median(dwell_ratios),
                ),
                ("request to 200, p99, beside to alone", "<=", RATIO_MAX, statistics.median(answer_ratios)),
                (
                    "times the requests of a quiet one, least",
                    ">=",
                    times * _TIMES_PART_MIN,
                    min(b.times for b in beside),
                ),
                ("quiet requests not answered with 200", "=", 0, sum(one.refused for one in rounds)),
                ("memory of the tree in MB, throughout", "<", MEMORY_MB_MAX, memory),
            ]
        ),
        f"COUNTS DIFFER: {wrong} quiet records are missing or doubled."
        if wrong
        else "Every acknowledged quiet record is there, once.",
    )


def _ratios(alone: Sequence[Sequence[float]], beside: Sequence[Sequence[float]]) -> list[float]:
    return [quantile(b, 0.99) / quantile(a, 0.99) for a, b in zip(alone, beside, strict=True)]


def _listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


def _row(one: Round) -> tuple[str, ...]:
    return (
        "beside" if one.beside else "alone",
        f"{len(one.answer_ms):,}",
        f"{one.refused}",
        f"{quantile(one.answer_ms, 0.5):.1f}",
        f"{quantile(one.answer_ms, 0.99):.1f}",
        f"{quantile(one.answer_ms, 1):.1f}",
        *(f"{quantile(one.dwell_ms, part):.0f}" for part in (0.5, 0.99, 1)),
        "" if one.hot is None else f"{one.hot.requests_per_s:,.0f}",
        "" if one.hot is None else f"{one.times:,.0f}",
        "" if one.hot is None else f"{one.hot.non_200}",
        f"{one.memory_bytes / 1e6:.0f}",
    )


def main() -> int:
    given = _options()
    with scratch(given.folder) as folder:
        facts = machine.describe(
            folder, "bench.fairness", f"the hot generator ({load.generator()}), the quiet sender and the reader"
        )
        rounds = _measure_all(folder, given)
    command.publish("fairness", _page(rounds, given.times, facts), save=given.save)
    return 1 if any(one.wrong for one in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
