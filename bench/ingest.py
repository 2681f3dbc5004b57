"""How fast is ingestion, and how much of what is possible? `python -m bench.ingest`

For 1, 10, 100 and 1,000 records per request it loads Penstock and, in turn with it, the floor (`bench/floor.py`,
the least program that keeps the same promise), each with as many processes, on the same cores as the load
generator. Penstock makes files meanwhile: batches are small, so sealing, compressing, delivering and freeing go on
during the run. Every 200 of either was fdatasynced before it left.

**The sketch, before any measurement** (two 2.6 GHz cores, a virtual disk: fdatasync 0.28 ms, 350 MB/s). A
request of one record costs the floor about: 15 µs in the kernel (read, write, epoll), 35 µs in uvicorn, 8 µs
for the INSERT, 8 µs as its share of a COMMIT, 10 µs as its share of the sync and the wake-up; wrk takes
another 10 µs. Two cores over 86 µs, less some switching: 17,000 to 20,000 requests a second, p50 = 64 /
18,500 = 3.5 ms. The disk does 2 x 3,000 syncs a second, each shared by a handful of requests: it is not the
limit. A request of 1,000 records is 170 kB: 60 µs of copying through loopback, 250 µs to split, 50 µs to join,
400 µs into the log (43 pages, each checksummed), 100 µs for wrk: 2 / 0.9 ms = 2,200 requests a second of
processor, 350 MB/s / 175 kB = 2,000 of disk, and both stand in each other's way: 1,200,000 to 1,600,000
records a second.

Penstock does the same, keeps books, and writes each record to a file. At one record a request the books are paid
for each request (target: 0.8 of the floor). At 1,000 the second life of the bytes is: read 170 kB, compress at
about 150 MB/s = 1.1 ms, write 60 kB. That doubles the work (target: 0.6 of the floor, files being behind).

**Counts.** After each run the records in Penstock's files (the floor: in its rows) are compared with the records
acknowledged. They may exceed them by the requests under way when the load ended, never fall short. That every
record is there exactly once is not looked at here; `tests/chaos` does, record by record.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import load, machine, payload, processes, report, servers
from bench.run import Run

SIZES = (1, 10, 100, 1_000)
#: Unmeasured load before each run: connections, plans and shards come into being, code becomes warm.
WARM_UP_S = 1


@dataclass(frozen=True, slots=True)
class Options:
    seconds: int
    connections: int
    executors: int
    rounds: int
    sizes: tuple[int, ...]
    only: str | None
    save: bool
    folder: Path | None


def options() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ingest", description="Measure ingestion against the floor."
    )
    parser.add_argument("--seconds", type=int, default=10, help="of load per run")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--executors", type=int, default=2, help="processes, of either server")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each server per size, in turn")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="records per request")
    parser.add_argument("--only", choices=("floor", "penstock"))
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-<commit>.md")
    parser.add_argument("--folder", type=Path, help="where data goes; the disk under it is what is measured")
    given = vars(parser.parse_args())
    return Options(**{**given, "sizes": tuple(int(size) for size in given["sizes"].split(","))})


def measure(
    name: str, server: servers.Server, records: int, bodies: Path, *, connections: int, seconds: float
) -> Run:
    before = server.held()
    with processes.memory_peak(server.pids) as peak:
        warm = load.run(server.url, bodies, connections=connections, seconds=WARM_UP_S)
        processor_s = processes.processor_s(server.pids)
        loaded = load.run(server.url, bodies, connections=connections, seconds=seconds)
        processor_s = processes.processor_s(server.pids) - processor_s
        acked = (warm.ok + loaded.ok) * records
        behind_s = server.settle()
    unknown = (2 * connections + warm.lost + loaded.lost) * records
    return Run(name, records, loaded, processor_s, behind_s, peak.bytes, acked, server.held() - before, unknown)


@contextlib.contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def runs_of_size(records: int, folder: Path, options: Options) -> Iterator[Run]:
    """The rounds of one size. Penstock lives through all of them, as a server does; a new floor is started each
    time, because its log only grows. Penstock has nothing left to deliver while the floor is measured."""
    bodies = payload.write_bodies(folder / "bodies", records)

    def measured(name: str, server: servers.Server) -> Run:
        return measure(name, server, records, bodies, connections=options.connections, seconds=options.seconds)

    with contextlib.ExitStack() as until_the_end:
        penstock = None
        if options.only != "floor":
            penstock = until_the_end.enter_context(servers.penstock(options.executors, folder / "penstock"))
        for number in range(options.rounds):
            if options.only != "penstock":
                with servers.floor(options.executors, folder / f"floor-{number}") as floor:
                    yield measured("floor", floor)
                shutil.rmtree(folder / f"floor-{number}")
                os.sync()  # what it left to write back is not the next one's burden
            if penstock is not None:
                yield measured("penstock", penstock)
                os.sync()


def main() -> int:
    given = options()
    runs = []
    with scratch(given.folder) as folder:
        facts = machine.describe(folder, "bench.ingest", f"the load generator ({load.generator()})")
        for records in given.sizes:
            for run in runs_of_size(records, folder / str(records), given):
                runs.append(run)
                print(report.line(run), file=sys.stderr, flush=True)
    text = report.page(runs, facts)
    print(text)
    if given.save:
        path = Path(__file__).parent / "results" / f"{datetime.date.today()}-{machine.commit()}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(f"written to {path}", file=sys.stderr)
    return 0 if all(run.counts_agree for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
