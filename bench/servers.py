"""The two things that are measured, behind one small interface: the floor and Penstock.

Each serves one URL with so many processes and can say how many records it holds, so that what was acknowledged
can be compared with what is there.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import apsw
from tests.s3 import S3Server

from bench import processes
from bench.buckets import Bucket, Counted, Folder, Remote
from bench.instance import Instance, instance

#: Small enough that files are sealed, compressed, delivered and freed while the load runs.
BATCH_SECONDS = 5
BATCH_BYTES = 20_000_000
#: How long the server may take after the load to have every acknowledged record in a file.
DELIVERY_DEADLINE_S = 120


@dataclass(frozen=True, slots=True)
class Stored:
    """What is on disk. `files` and `bytes` are 0 for the floor, which makes none."""

    records: int
    files: int = 0
    bytes: int = 0

    def __sub__(self, other: Stored) -> Stored:
        return Stored(self.records - other.records, self.files - other.files, self.bytes - other.bytes)


class Server(Protocol):
    url: str
    #: Every process of it.
    pids: list[int]

    def held(self) -> Stored:
        """What is there now."""
        ...

    def settle(self) -> float:
        """Wait until nothing is under way, or until it has had its time. Gives how long that took, in seconds."""
        ...


class Floor:
    def __init__(self, url: str, pids: list[int], folder: Path) -> None:
        self.url = url
        self.pids = pids
        self._folder = folder

    def held(self) -> Stored:
        total = 0
        for path in self._folder.glob("*.db"):
            database = apsw.Connection(str(path))
            database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            total += database.execute("SELECT sum(records) FROM batch").get or 0
            database.close()
        return Stored(total)

    def settle(self) -> float:
        return 0.0  # a row is there before its answer


@contextmanager
def floor(count: int, folder: Path) -> Iterator[Floor]:
    folder.mkdir(parents=True)
    port = processes.free_port()
    command = [sys.executable, "-m", "bench.floor", "--port", str(port), "--data-dir", str(folder)]
    started = [processes.start(command, folder / "log") for _ in range(count)]
    try:
        _wait_for_floor(port, folder, count)
        yield Floor(f"http://127.0.0.1:{port}/", [process.pid for process in started], folder)
    finally:
        for process in started:
            processes.stop(process, deadline_s=5)


def _wait_for_floor(port: int, folder: Path, count: int) -> None:
    """Until every process is there: the kernel spreads connections over those that listen already."""
    ends_at = time.monotonic() + 10
    while time.monotonic() < ends_at:
        if len(list(folder.glob("*.db-wal"))) == count:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                time.sleep(0.5)
                return
        time.sleep(0.05)
    raise RuntimeError(f"the floor did not start: {(folder / 'log').read_text()[-500:]}")


class Penstock:
    """One pipeline of an instance, and the bucket that it delivers to."""

    def __init__(self, instance: Instance, bucket: Bucket, batch_seconds: float) -> None:
        self._instance = instance
        self._counted = Counted(bucket)
        self._batch_seconds = batch_seconds
        self.url = instance.create("bench", bucket, batch_seconds=batch_seconds, batch_bytes=BATCH_BYTES)
        self.pids = instance.pids

    def settle(self) -> float:
        took = self._instance.wait_delivered("bench", DELIVERY_DEADLINE_S)
        # A request that was under way when the load ended may be stored and not acknowledged: its file comes too.
        time.sleep(self._batch_seconds + 1)
        return DELIVERY_DEADLINE_S if took is None else took

    def held(self) -> Stored:
        files = self._counted.look().values()
        return Stored(sum(records for records, _ in files), len(files), sum(size for _, size in files))


@contextmanager
def penstock(
    count: int,
    folder: Path,
    *,
    s3: S3Server | None = None,
    batch_seconds: float = BATCH_SECONDS,
) -> Iterator[Penstock]:
    """Its files go to a folder, or to a new bucket of an S3 server."""
    with instance(folder, count) as running:
        name = f"bench-{folder.name}"
        bucket = Folder(running.data, name) if s3 is None else Remote(s3, name)
        yield Penstock(running, bucket, batch_seconds)
