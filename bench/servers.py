"""The two things that are measured, behind one small interface: the floor and Penstock.

Each serves one URL with so many processes and can say how many records it holds, so that what was acknowledged
can be compared with what is there.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import apsw

from bench import processes

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

    def settle(self, records: int) -> float:
        """Wait until it holds at least so many records and nothing is under way, or until it has had its time.
        Gives how long it took, in seconds, to hold so many."""
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

    def settle(self, records: int) -> float:
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
    def __init__(self, url: str, pids: list[int], bucket: Path) -> None:
        self.url = url
        self.pids = pids
        self._bucket = bucket
        self._records_of: dict[Path, int] = {}

    def settle(self, records: int) -> float:
        started = time.monotonic()
        while self.held().records < records and time.monotonic() - started < DELIVERY_DEADLINE_S:
            time.sleep(0.25)
        took = time.monotonic() - started
        # A request that was under way when the load ended may be stored and not acknowledged: its file comes too.
        time.sleep(BATCH_SECONDS + 1)
        return took

    def held(self) -> Stored:
        for path in self._bucket.rglob("*.json.gz"):
            if path not in self._records_of:
                with gzip.open(path, "rb") as file:
                    self._records_of[path] = sum(1 for _ in file)
        sizes = [path.stat().st_size for path in self._records_of]
        return Stored(sum(self._records_of.values()), len(sizes), sum(sizes))


@contextmanager
def penstock(count: int, folder: Path) -> Iterator[Penstock]:
    folder.mkdir(parents=True)
    data = folder / "data"
    port = processes.free_port()
    command = [sys.executable, "-m", "penstock", "serve", "--data-dir", str(data), "--port", str(port)]
    process = processes.start([*command, "--executors", str(count), "--log-format", "json"], folder / "log")
    try:
        processes.wait_for(f"http://127.0.0.1:{port}/readyz", process)
        url = _create_pipeline(data)
        yield Penstock(url, processes.tree(process.pid), data / "buckets" / "bench")
    finally:
        processes.stop(process)


def _create_pipeline(data: Path) -> str:
    """A pipeline with small batches; gives its ingest URL."""
    credentials = tomllib.loads((data / "credentials.toml").read_text())
    pipeline = {
        "name": "bench",
        "source": [{"type": "http", "format": "json", "authentication": False}],
        "transforms": [],
        "destination": {
            "type": "r2",
            "format": "json",
            "batch": {"max_bytes": BATCH_BYTES, "max_duration_s": BATCH_SECONDS, "max_rows": 10_000_000},
            "compression": {"type": "gzip"},
            "path": {"bucket": "bench", "prefix": ""},
        },
    }
    request = urllib.request.Request(
        f"{credentials['url']}/client/v4/accounts/{credentials['account_id']}/pipelines",
        data=json.dumps(pipeline).encode(),
        headers={"Authorization": f"Bearer {credentials['token']}", "Content-Type": "application/json"},
    )
    with processes.urlopen_when_ready(request) as answer:
        created = json.load(answer)
    assert created["success"], created
    return f"{credentials['url']}/ingest/{created['result']['id']}"
