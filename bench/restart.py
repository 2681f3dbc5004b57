"""How long does a restart take with much undelivered, and how much memory? `python -m bench.restart`

The bucket is out of order while 1 GB of records comes in, so all of it waits on the disk: rows, sealed segments,
files that were made and not taken. Then every process gets SIGKILL, the databases are dropped from the page cache
(Linux), the bucket works again, and the server starts. Times are from the start of the process: until the first
200 to a client that tries all the time, until nothing waits any more. Beside it, the same server killed and
started with nothing undelivered: what a start costs anyway. To a folder and to an S3 server.

**The sketch.** A start imports 0.5 s of Python per process on these cores. The shard's log is at most 32 MiB long
(the rest is in its database): to read it, write it over itself, sync and copy it back takes about 0.3 s. Nothing
else may grow with what waits: totals and ranges are read from the ends of tables. Delivery reads 1 GB (350 MB/s),
compresses it unless that was done before (300 MB/s and core), writes 0.4 GB and frees its rows: 5 to 15 s.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import buckets, command, machine, payload, processes
from bench.buckets import Bucket, Counted
from bench.command import MEMORY_MB_MAX
from bench.feed import Feed, fill
from bench.ingest import scratch
from bench.instance import Instance, instance

RECORDS_PER_REQUEST = 1_000
BATCH_SECONDS = 1.0
NAME = "restart"
_FIRST_200_DEADLINE_S = 120

_LEGEND = """\
Every 200 was sent after `fdatasync` of the log that holds its records had returned. "First 200" includes what the
client waits between two tries (2 ms). "All delivered" is until no shard had anything that is in no file, or in one
and not freed. Memory is the peak of the tree since that start. What was acknowledged before the kill and after it
is compared with the records in files."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start after a kill."""

    undelivered_bytes: int
    first_200_s: float
    #: None: not within the time allowed.
    delivered_s: float | None
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One destination."""

    kind: str
    empty: Start
    full: Start
    #: Of the server while it took the records in, its bucket out of order.
    filling_memory_bytes: int
    acknowledged: int
    in_files: int
    #: Records of requests whose answer got lost: they may be there or not.
    unknown: int

    @property
    def counts_agree(self) -> bool:
        return self.acknowledged <= self.in_files <= self.acknowledged + self.unknown


class _Broken:
    """A bucket that can be put out of order, and in order again."""

    def __init__(self, bucket: Bucket, breaks: Callable[[], None], mends: Callable[[], None]) -> None:
        self.bucket = bucket
        self.breaks = breaks
        self.mends = mends


def _options() -> Namespace:
    parser = command.parser(
        "restart",
        "Measure a restart with much undelivered.",
        seconds=300,
        seconds_help="until all has to be delivered",
    )
    parser.add_argument("--undelivered-mb", type=float, default=1_000, help="of records (default: 1000)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="kills with so much undelivered, each with a data directory"
    )
    return parser.parse_args()


def _folder(running: Instance, _: Path, __: ExitStack) -> _Broken:
    bucket = buckets.Folder(running.data, NAME)
    aside = running.data / "taken-away"

    def breaks() -> None:
        # A file where the folder should be.
        bucket.path.parent.mkdir(exist_ok=True)
        if bucket.path.exists():
            bucket.path.rename(aside)
        bucket.path.touch()

    def mends() -> None:
        bucket.path.unlink()
        if aside.exists():
            aside.rename(bucket.path)

    return _Broken(bucket, breaks, mends)


def _s3(_: Instance, folder: Path, until_the_end: ExitStack) -> _Broken:
    server = until_the_end.enter_context(buckets.s3_server(folder / "server"))
    return _Broken(buckets.Remote(server, NAME), server.kill, server.start)


_MAKERS = {"folder": _folder, "s3": _s3}


def _measure(kind: str, folder: Path, given: Namespace) -> Outcome:
    bodies = payload.bodies(RECORDS_PER_REQUEST)
    with ExitStack() as until_the_end:
        running = until_the_end.enter_context(instance(folder / "penstock", given.executors))
        sink = _MAKERS[kind](running, folder, until_the_end)
        url = running.create(NAME, sink.bucket, batch_seconds=BATCH_SECONDS)
        size_bytes = round(given.undelivered_mb * 1e6)
        fed = [fill(url, bodies[:8], 1, given.seconds)]  # every shard and connection comes into being
        if running.wait_delivered(NAME, given.seconds) is None:
            raise RuntimeError(f"not delivered before anything was measured: {running.said()}")
        running.kill()
        empty, feed = _start(running, url, bodies, 0, given.seconds)
        fed.append(feed)
        sink.breaks()
        with processes.memory_peak(running.pids) as filling:
            fed.append(fill(url, bodies, size_bytes, given.seconds))
        running.kill()
        _drop_from_cache(running.data)
        sink.mends()
        full, feed = _start(running, url, bodies, fed[-1].ok_bytes, given.seconds)
        fed.append(feed)
        in_files = sum(records for records, _ in Counted(sink.bucket).look().values())
    return Outcome(
        kind=kind,
        empty=empty,
        full=full,
        filling_memory_bytes=filling.bytes,
        acknowledged=sum(feed.ok for feed in fed) * RECORDS_PER_REQUEST,
        in_files=in_files,
        unknown=sum(feed.lost for feed in fed) * RECORDS_PER_REQUEST,
    )


def _start(
    running: Instance, url: str, bodies: list[bytes], undelivered_bytes: int, deadline_s: float
) -> tuple[Start, Feed]:
    feed = Feed(url, bodies, connections=1)
    started = time.monotonic()
    running.start()
    with processes.memory_peak(lambda: running.pids) as peak:
        feed.run(lambda: feed.ok > 0 or time.monotonic() - started > _FIRST_200_DEADLINE_S)
        if feed.first_ok_at is None:
            raise RuntimeError(f"no 200 within {_FIRST_200_DEADLINE_S} s of the start: {running.said()}")
        running.wait_ready()
        delivered = running.wait_delivered(NAME, deadline_s)
        delivered_s = None if delivered is None else time.monotonic() - started
    return Start(undelivered_bytes, feed.first_ok_at - started, delivered_s, peak.bytes), feed


def _drop_from_cache(folder: Path) -> None:
    """As after the start of a machine, what is read comes from the disk. Where the system has no such call, it may
    come from memory."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()
    for path in filter(Path.is_file, folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _page(outcomes: list[Outcome], facts: dict[str, str]) -> str:
    head: tuple[str, ...] = (
        "destination",
        "undelivered MB",
        "start to first 200, s",
        "start to all delivered, s",
        "memory MB",
    )
    head += ("memory while it came in, MB",)
    rows = [
        (
            outcome.kind,
            f"{start.undelivered_bytes / 1e6:,.0f}",
            f"{start.first_200_s:.2f}",
            "not in time" if start.delivered_s is None else f"{start.delivered_s:.1f}",
            f"{start.memory_bytes / 1e6:.0f}",
            "" if start is outcome.empty else f"{outcome.filling_memory_bytes / 1e6:.0f}",
        )
        for outcome in outcomes
        for start in (outcome.empty, outcome.full)
    ]
    memory = max(max(o.filling_memory_bytes, o.empty.memory_bytes, o.full.memory_bytes) for o in outcomes) / 1e6
    return command.page(
        "Restart with records undelivered",
        facts,
        command.table(head, rows),
        _LEGEND,
        command.targets([("memory of the tree in MB, throughout", "<", MEMORY_MB_MAX, memory)]),
        "\n".join(_counts(outcome) for outcome in outcomes),
    )


def _counts(outcome: Outcome) -> str:
    agree = "counts agree" if outcome.counts_agree else "COUNTS DIFFER"
    return (
        f"{outcome.kind}: {agree}: {outcome.acknowledged:,} records acknowledged, {outcome.in_files:,} in files, "
        f"{outcome.unknown:,} with unknown outcome.  "
    )


def _measure_all(folder: Path, given: Namespace) -> Iterator[Outcome]:
    for kind in buckets.kinds_possible():
        for number in range(given.rounds):
            outcome = _measure(kind, folder / f"{kind}-{number}", given)
            command.say(
                f"{kind}: first 200 after {outcome.full.first_200_s:.2f} s, all after {outcome.full.delivered_s} s"
            )
            shutil.rmtree(folder / f"{kind}-{number}")
            yield outcome


def main() -> int:
    given = _options()
    with scratch(given.folder) as folder:
        facts = machine.describe(folder, "bench.restart", "the client and the S3 server (SeaweedFS)")
        outcomes = list(_measure_all(folder, given))
    command.publish("restart", _page(outcomes, facts), save=given.save)
    return 0 if all(outcome.counts_agree for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
