"""Does memory stay flat while a bucket is down and records go on coming in? `python -m bench.sink_down`

The bucket is an S3 server that refuses connections, and then one that takes them and never answers, which is
worse: uploads and what they hold hang in the air. Records come in as fast as a few connections send them, until
the byte budget is used up and every request is answered with 429, and for some seconds more. The memory of the
tree is sampled all the while. A budget of 1 GB instead of the default's 8 GiB and more makes this a matter of
seconds.

**The sketch.** Of what waits, a shard has two counters, a few cached pages and the segments that are not
delivered: an entry of some 300 bytes for 20 MB. An upload holds four parts of 8 MiB, two of them go on at once for
one connection to a bucket: 64 MiB an executor at the most, and only while the server takes them. So from 10% of
the budget on, when uploads hang and caches are full, nothing should grow any more.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import command, machine, payload, processes
from bench.command import MEMORY_MB_MAX, quantile
from bench.feed import Feed
from bench.ingest import scratch
from bench.instance import instance
from bench.ticker import every

RECORDS_PER_REQUEST = 1_000
BATCH_SECONDS = 1.0
NAME = "sink-down"
#: How often memory is sampled: the budget may be used up within seconds.
SAMPLE_S = 0.25
#: What counts as flat: the median of the last quarter of the time until the last 200 (and of the time after it), to
#: that of the second quarter. Allocators and caches move by some percent.
GROWTH_MAX = 1.1
#: How long input may take to use up the budget.
_FILL_DEADLINE_S = 600
_ROWS_MAX = 12

_LEGEND = """\
Every 200 was sent after `fdatasync` of the log that holds its records had returned. Samples are of the whole tree,
four times a second (the table has some of them); "waits" is the size of the bodies acknowledged until then.
"Growth" is the median memory of the last quarter of the time until the last 200, and of all time after it, to that
of the second quarter (the first is warm-up). At the end the shards are asked how many records wait."""


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    waiting_bytes: int
    refused: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way to be down."""

    how: str
    samples: Sequence[Sample]
    #: Seconds from the first request to the first 429 and the last 200; None if there was no 429.
    first_refusal_s: float | None
    last_ok_s: float
    acknowledged: int
    unknown: int
    waiting: int | None
    refusal: tuple[int, str, str] | None
    peak_bytes: int

    def _median(self, from_s: float, to_s: float) -> float:
        return quantile([sample.memory_bytes for sample in self.samples if from_s <= sample.at_s <= to_s], 0.5)

    def growth_while_taken(self) -> float:
        until_s = self.last_ok_s
        return self._median(0.75 * until_s, until_s) / self._median(0.25 * until_s, 0.5 * until_s)

    def growth_while_refused(self) -> float:
        until_s = self.last_ok_s
        return self._median(self.last_ok_s, float("inf")) / self._median(0.25 * until_s, 0.5 * until_s)

    @property
    def counts_agree(self) -> bool:
        return self.waiting is not None and self.acknowledged <= self.waiting <= self.acknowledged + self.unknown


class _Down:
    """Implements `buckets.Bucket` as far as settings need it."""

    kind = "s3"
    name = "sink-down"

    def __init__(self, endpoint: str) -> None:
        self.credentials: dict[str, Any] | None = {
            "endpoint": endpoint,
            "access_key_id": "nobody",
            "secret_access_key": "nothing",
        }

    def list_keys(self) -> list[str]:
        return []

    def read(self, key: str) -> bytes:
        raise FileNotFoundError(key)


@dataclass(frozen=True, slots=True)
class _Server:
    endpoint: str
    #: Called when the pipeline is there.
    begin: Callable[[], None]


@contextmanager
def _refusing() -> Iterator[_Server]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen: connections are refused, and nobody else gets the port
        yield _Server(f"http://127.0.0.1:{bound.getsockname()[1]}", lambda: None)


@contextmanager
def _hanging() -> Iterator[_Server]:
    """Takes connections and whatever is sent, and says nothing. (It refuses first: while a pipeline is made, its
    bucket is asked for, which would wait for the answer.)"""
    ended = threading.Event()

    def swallow(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                pass

    def accept() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listening.accept()
                connection.settimeout(None)
                threading.Thread(target=swallow, args=(connection,), daemon=True).start()

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(0.2)
        accepting = threading.Thread(target=accept)

        def begin() -> None:
            listening.listen()
            accepting.start()

        try:
            yield _Server(f"http://127.0.0.1:{listening.getsockname()[1]}", begin)
        finally:
            ended.set()
            if accepting.ident is not None:
                accepting.join()


WAYS = {"refuses": _refusing, "hangs": _hanging}


def _options() -> Namespace:
    parser = command.parser(
        "sink_down",
        "Measure memory while a bucket is down.",
        seconds=10,
        seconds_help="of input after the last 200",
    )
    parser.add_argument("--budget-mb", type=float, default=1_000, help="that may wait, in all (default: 1000)")
    parser.add_argument("--ways", default=",".join(WAYS), help="in which the bucket is down")
    return parser.parse_args()


def _measure(how: str, folder: Path, given: Namespace) -> Outcome:
    budget = round(given.budget_mb * 1e6 / given.executors)
    options = ("--pipeline-undelivered-bytes-max", f"{budget}", "--undelivered-bytes-max", f"{budget}")
    feed_bodies = payload.bodies(RECORDS_PER_REQUEST)
    with WAYS[how]() as server, instance(folder, given.executors, options) as running:
        feed = Feed(running.create(NAME, _Down(server.endpoint), batch_seconds=BATCH_SECONDS), feed_bodies)
        server.begin()
        samples: list[Sample] = []
        started = time.monotonic()

        def enough() -> bool:
            now = time.monotonic()
            full = feed.refused_from is not None and now - max(feed.last_ok_at, started) >= given.seconds
            return full or now - started > _FILL_DEADLINE_S

        def sample() -> None:
            memory = processes.memory_bytes(pids)
            samples.append(Sample(time.monotonic() - started, feed.ok_bytes, feed.refused, memory))

        pids = running.pids
        with every(SAMPLE_S, sample):
            feed.run(enough)
        waiting = running.backlog(NAME)
    return Outcome(
        how=how,
        samples=samples,
        first_refusal_s=None if feed.refused_from is None else feed.refused_from - started,
        last_ok_s=feed.last_ok_at - started,
        acknowledged=feed.ok * RECORDS_PER_REQUEST,
        unknown=feed.lost * RECORDS_PER_REQUEST,
        waiting=waiting,
        refusal=feed.refusal,
        peak_bytes=max(sample.memory_bytes for sample in samples),
    )


def _page(outcomes: Sequence[Outcome], facts: dict[str, str]) -> str:
    head: tuple[str, ...] = (
        "the bucket",
        "MB taken",
        "first 429 after s",
        "memory peak, MB",
        "growth until the last 200",
        "growth while refused",
    )
    rows = [
        (
            outcome.how,
            f"{outcome.samples[-1].waiting_bytes / 1e6:,.0f}",
            "never" if outcome.first_refusal_s is None else f"{outcome.first_refusal_s:.1f}",
            f"{outcome.peak_bytes / 1e6:.0f}",
            f"{outcome.growth_while_taken():.2f}",
            f"{outcome.growth_while_refused():.2f}",
        )
        for outcome in outcomes
    ]
    targets: list[tuple[str, str, float, float]] = []
    for outcome in outcomes:
        targets += [
            (f"{outcome.how}: memory, growth until the last 200", "<=", GROWTH_MAX, outcome.growth_while_taken()),
            (f"{outcome.how}: memory, growth while refused", "<=", GROWTH_MAX, outcome.growth_while_refused()),
        ]
    peak = max(outcome.peak_bytes for outcome in outcomes) / 1e6
    targets.append(("memory of the tree in MB, throughout", "<", MEMORY_MB_MAX, peak))
    return command.page(
        "Memory with the bucket down",
        facts,
        command.table(head, rows),
        _LEGEND,
        *map(_course, outcomes),
        command.targets(targets),
        "\n\n".join(map(_counts, outcomes)),
    )


def _course(outcome: Outcome) -> str:
    """Some of the samples, evenly over time."""
    step = max(1, -(-len(outcome.samples) // _ROWS_MAX))
    head: tuple[str, ...] = ("the bucket", "s", "waits, MB", "429 so far", "memory MB")
    return command.table(
        head,
        [
            (
                outcome.how,
                f"{sample.at_s:.1f}",
                f"{sample.waiting_bytes / 1e6:,.0f}",
                f"{sample.refused:,}",
                f"{sample.memory_bytes / 1e6:.0f}",
            )
            for sample in outcome.samples[::step]
        ],
    )


def _counts(outcome: Outcome) -> str:
    agree = "counts agree" if outcome.counts_agree else "COUNTS DIFFER"
    waiting = "an unknown number of" if outcome.waiting is None else f"{outcome.waiting:,}"
    counts = f"{outcome.how}: {agree}: {outcome.acknowledged:,} records acknowledged, {waiting} wait, "
    counts += f"{outcome.unknown:,} with unknown outcome."
    if outcome.refusal is None:
        return f"{counts} Nothing was refused."
    status, retry_after, said = outcome.refusal
    return f"{counts} The last refusal: {status}, Retry-After: {retry_after}, `{said}`"


def main() -> int:
    given = _options()
    outcomes = []
    with scratch(given.folder) as folder:
        facts = machine.describe(folder, "bench.sink_down", "the client")
        for how in given.ways.split(","):
            outcomes.append(_measure(how, folder / how, given))
            shutil.rmtree(folder / how)
            command.say(f"{how}: peak {outcomes[-1].peak_bytes / 1e6:.0f} MB")
    command.publish("sink_down", _page(outcomes, facts), save=given.save)
    return 0 if all(outcome.counts_agree for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
