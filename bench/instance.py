"""A data directory and the server on it, which may be killed and started again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import processes
from bench.buckets import Bucket

#: The least that settings take (`limits.BATCH_SECONDS_MAX_RANGE`).
BATCH_SECONDS_MIN = 0.25
#: How often a backlog is asked for: a call to each shard, which is little beside what the shard does.
_LOOK_S = 0.1
_LOG_SHOWN = 2_000


class Instance:
    """`options` are those of `penstock serve`."""

    def __init__(self, folder: Path, executors: int, options: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True)
        self.data = folder / "data"
        self.url = f"http://127.0.0.1:{(port := processes.free_port())}"
        self._log = folder / "log"
        self._command = [sys.executable, "-m", "penstock", "serve", "--data-dir", str(self.data)]
        self._command += ["--port", str(port), "--executors", str(executors), "--log-format", "json", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once; `wait_ready` waits."""
        assert self._process is None
        self._process = processes.start(self._command, self._log)

    def wait_ready(self) -> None:
        assert self._process is not None
        processes.wait_for(f"{self.url}/readyz", self._process)

    @property
    def pids(self) -> list[int]:
        """Every process of it, now."""
        return processes.tree(self._process.pid) if self._process is not None else []

    def kill(self) -> None:
        """All of it at once, with SIGKILL; returns when nothing of it is left."""
        assert self._process is not None
        process, self._process = self._process, None
        processes.kill(processes.tree(process.pid))
        process.wait()

    def stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            processes.stop(process)

    def create(
        self,
        name: str,
        bucket: Bucket,
        *,
        prefix: str = "",
        batch_seconds: float = BATCH_SECONDS_MIN,
        batch_bytes: int = 20_000_000,
    ) -> str:
        """Make a pipeline; gives its ingest URL."""
        destination: dict[str, Any] = {
            "type": "r2",
            "format": "json",
            "batch": {"max_bytes": batch_bytes, "max_duration_s": batch_seconds, "max_rows": 10_000_000},
            "compression": {"type": "gzip"},
            "path": {"bucket": bucket.name, "prefix": prefix},
        }
        if bucket.credentials is not None:
            destination["credentials"] = bucket.credentials
        source = [{"type": "http", "format": "json", "authentication": False}]
        settings = {"name": name, "source": source, "transforms": [], "destination": destination}
        return f"{self.url}/ingest/{self._ask('', settings)['id']}"

    def backlog(self, name: str) -> int | None:
        """Records that are accepted and not yet freed, None if a shard cannot say now."""
        described = self._ask(f"/{name}")
        if not all(shard["reachable"] for shard in described["shards"]):
            return None
        return int(described["backlog"]["records"])

    def wait_delivered(self, name: str, deadline_s: float) -> float | None:
        """Until nothing of a pipeline waits. Gives how many seconds that took, None if it takes longer."""
        started = time.monotonic()
        while self.backlog(name) != 0:
            if time.monotonic() - started > deadline_s:
                return None
            time.sleep(_LOOK_S)
        return time.monotonic() - started

    def _ask(self, path: str, settings: dict[str, Any] | None = None) -> Any:
        credentials = tomllib.loads((self.data / "credentials.toml").read_text())
        request = urllib.request.Request(
            f"{self.url}/client/v4/accounts/{credentials['account_id']}/pipelines{path}",
            data=None if settings is None else json.dumps(settings).encode(),
            headers={"Authorization": f"Bearer {credentials['token']}", "Content-Type": "application/json"},
        )
        with processes.urlopen_when_ready(request) as answer:
            answered = json.load(answer)
        assert answered["success"], answered
        return answered["result"]

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-_LOG_SHOWN:]


@contextmanager
def instance(folder: Path, executors: int, options: Sequence[str] = ()) -> Iterator[Instance]:
    """One that is ready, and stopped at the end of the block."""
    made = Instance(folder, executors, options)
    try:
        made.start()
        made.wait_ready()
        yield made
    finally:
        made.stop()
