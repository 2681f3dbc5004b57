"""How long after its 200 is a record in a file that a reader sees? `python -m bench.visibility`

One pipeline, its batches as short as settings allow (0.25 s), single records at a steady pace; a reader lists the
bucket over and over and notes when a file is there first. Files are read afterwards, so each record's time is
known. To a folder and to an S3 server.

**The sketch.** A record waits until its batch closes: between nothing and 0.25 s, whichever pace, since a batch
begins with its first record: p50 is half of that at least, p99 nearly all. Then the file is due: a seal is synced,
the file compressed, written, synced and renamed, its folder synced: 4 syncs, some 2 ms on a disk that syncs in 0.3
ms, and 10 ms more where the put is a request to an S3 server. The listing itself adds up to one look.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import buckets, command, machine, probe, processes
from bench.buckets import Bucket
from bench.command import MEMORY_MB_MAX, quantile
from bench.ingest import scratch
from bench.instance import BATCH_SECONDS_MIN, Instance, instance

#: Between two looks at the bucket. With S3 a look is a request, which takes a few milliseconds itself.
LOOK_S = 0.01
_DEADLINE_S = 60

_LEGEND = """\
Every 200 was sent after `fdatasync` of the log that holds the record had returned. "200 to visible" is of records:
from the arrival of the answer to the end of the listing that has the file first. "Due to visible" is of files:
from the moment at which the batch of its first record was at its bound (that record's 200, and 0.25 s) to the same
listing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One destination."""

    kind: str
    records: int
    refused: int
    #: Acknowledged records that are in no file, or in more than one.
    wrong: int
    files: int
    looks_per_s: float
    answer_ms: Sequence[float]
    visible_ms: Sequence[float]
    after_due_ms: Sequence[float]
    memory_bytes: int


def _options() -> Namespace:
    parser = command.parser(
        "visibility", "Measure the time from 200 to a file that is visible.", seconds=30, seconds_help="of records"
    )
    parser.add_argument("--rate", type=float, default=50, help="records per second, one a request (default: 50)")
    return parser.parse_args()


def _measure(running: Instance, bucket: Bucket, given: Namespace) -> Seen:
    url = running.create("visibility", bucket)
    with processes.memory_peak(running.pids) as peak:
        # Connections, plans and shards come into being, code becomes warm.
        uvloop.run(probe.send([url], per_s=given.rate, seconds=min(1.0, given.seconds), name="warm"))
        with probe.watched(bucket, LOOK_S) as watch:
            started = time.monotonic()
            sent = uvloop.run(probe.send([url], per_s=given.rate, seconds=given.seconds, name="probe"))
            if running.wait_delivered("visibility", _DEADLINE_S) is None:
                raise RuntimeError(f"not delivered after {_DEADLINE_S} s: {running.said()}")
            took_s = time.monotonic() - started
        watch.look()
    return _seen(bucket.kind, sent, watch, watch.looks / took_s, peak.bytes)


def _seen(kind: str, sent: Sequence[probe.Sent], watch: probe.Watch, looks_per_s: float, memory_bytes: int) -> Seen:
    by_record = {one.record: one for one in sent}
    acknowledged = {one.record: one.ok_s for one in sent if one.ok_s is not None}
    visible: list[tuple[str, float]] = []
    after_due_ms = []
    files = [[found for found in file if found[0] in by_record] for file in watch.records()]
    for file in filter(None, files):
        visible += file
        known = [acknowledged[record] for record, _ in file if record in acknowledged]
        if known:
            after_due_ms.append((file[0][1] - min(known) - BATCH_SECONDS_MIN) * 1e3)
    there = [record for record, _ in visible]
    return Seen(
        kind=kind,
        records=len(acknowledged),
        refused=len(sent) - len(acknowledged),
        wrong=len(set(acknowledged) - set(there)) + len(there) - len(set(there)),
        files=len(after_due_ms),
        looks_per_s=looks_per_s,
        answer_ms=[(one.ok_s - one.sent_s) * 1e3 for one in sent if one.ok_s is not None],
        visible_ms=[(at_s - acknowledged[record]) * 1e3 for record, at_s in visible if record in acknowledged],
        after_due_ms=after_due_ms,
        memory_bytes=memory_bytes,
    )


def _page(seen: Sequence[Seen], facts: dict[str, str]) -> str:
    head: tuple[str, ...] = (
        "destination",
        "records",
        "not 200",
        "files",
        "looks/s",
        "request to 200, p50 ms",
        "p99 ms",
    )
    head += ("200 to visible, p50 ms", "p99 ms", "max ms", "due to visible, p50 ms", "p99 ms", "memory MB")
    rows = [
        (
            one.kind,
            f"{one.records:,}",
            f"{one.refused}",
            f"{one.files:,}",
            f"{one.looks_per_s:.0f}",
            *(f"{quantile(one.answer_ms, part):.1f}" for part in (0.5, 0.99)),
            *(f"{quantile(one.visible_ms, part):.0f}" for part in (0.5, 0.99, 1)),
            *(f"{quantile(one.after_due_ms, part):.0f}" for part in (0.5, 0.99)),
            f"{one.memory_bytes / 1e6:.0f}",
        )
        for one in seen
    ]
    memory = max(one.memory_bytes for one in seen) / 1e6
    wrong = sum(one.wrong for one in seen)
    return command.page(
        "From 200 to visible",
        facts,
        command.table(head, rows),
        _LEGEND,
        command.targets([("memory of the tree in MB, throughout", "<", MEMORY_MB_MAX, memory)]),
        f"COUNTS DIFFER: {wrong} records are missing or doubled."
        if wrong
        else "Every acknowledged record is there, once.",
    )


def _measure_all(folder: Path, given: Namespace) -> list[Seen]:
    with instance(folder / "folder", given.executors) as running:
        seen = [_measure(running, buckets.Folder(running.data, "visibility"), given)]
    if "s3" in buckets.kinds_possible():
        with buckets.s3_server(folder / "server") as s3, instance(folder / "s3", given.executors) as running:
            seen.append(_measure(running, buckets.Remote(s3, "visibility"), given))
    return seen


def main() -> int:
    given = _options()
    with scratch(given.folder) as folder:
        facts = machine.describe(folder, "bench.visibility", "the sender, the reader and the S3 server (SeaweedFS)")
        seen = _measure_all(folder, given)
    command.publish("visibility", _page(seen, facts), save=given.save)
    return 1 if any(one.wrong for one in seen) else 0


if __name__ == "__main__":
    sys.exit(main())
