"""A real server: a supervisor, its executors, a data directory; and how to kill them.

Processes are ended by their id, and only those of this tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .client import Target

_ROOT = Path(__file__).resolve().parents[2]
#: `penstock serve --drain-seconds` defaults to 10; the rest is for closing databases.
DRAIN_DEADLINE_S = 20
READY_DEADLINE_S = 30


class ServerTree:
    def __init__(self, folder: Path, executors: int) -> None:
        self.data = folder / "data"
        self.log = folder / "server.log"
        self.port = _free_port()
        self._executors = executors
        self._process: subprocess.Popen[bytes]
        #: Every process of any generation of the tree.
        self.seen: set[int] = set()
        self.starts = 0

    def start(self) -> None:
        path = os.pathsep.join(filter(None, (str(_ROOT / "src"), os.environ.get("PYTHONPATH"))))
        command = [
            sys.executable,
            "-m",
            "penstock",
            "serve",
            "--data-dir",
            str(self.data),
            "--port",
            str(self.port),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--executors", str(self._executors), "--log-format", "json"],
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self.seen.add(self._process.pid)
        self.starts += 1

    @property
    def ended(self) -> bool:
        """Whether the supervisor is gone."""
        return self._process.poll() is not None

    @property
    def exit_status(self) -> int | None:
        return self._process.poll()

    def executors(self) -> list[int]:
        found = [pid for pid, parent in _living() if parent == self._process.pid]
        self.seen.update(found)
        return found

    def aim(self, kind: str, rng: random.Random) -> Callable[[], None]:
        """Choose what to kill; calling the result kills it, at once."""
        executors = self.executors()
        match kind:
            case "executor":
                # There is none while the tree starts.
                return partial(_kill, rng.choice(executors)) if executors else lambda: None
            case "everything":
                return partial(self._kill_supervisor_and, executors)
            case "supervisor":
                # Its executors must find out by themselves, and end.
                return partial(self._kill_supervisor_and, [])
        raise AssertionError(kind)

    def _kill_supervisor_and(self, executors: list[int]) -> None:
        self._process.kill()  # first, so that it restarts nobody
        for pid in executors:
            _kill(pid)
        self._process.wait()

    def kill_all(self) -> None:
        self._kill_supervisor_and(self.executors())

    async def terminate(self) -> int | None:
        """SIGTERM; the exit status, None if it took longer than the drain deadline."""
        self.executors()
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, DRAIN_DEADLINE_S)
        return self._process.poll()

    def left_over(self) -> list[int]:
        """Processes of this tree that live."""
        living = {pid for pid, _ in _living()}
        return sorted(self.seen & living)

    def clean_up(self) -> None:
        if not self.ended:
            self.kill_all()
        for pid in self.left_over():
            _kill(pid)

    async def wait_ready(self) -> None:
        ends_at = time.monotonic() + READY_DEADLINE_S
        while time.monotonic() < ends_at and not self.ended:
            if await asyncio.to_thread(_answers_200, f"http://127.0.0.1:{self.port}/readyz"):
                self.executors()
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the server did not become ready: {self.log.read_text()[-2000:]}")

    def create_pipeline(self, batch: dict[str, object]) -> Target:
        """A pipeline of these batch settings, unauthenticated; where its records go."""
        credentials = tomllib.loads((self.data / "credentials.toml").read_text())
        pipeline = {
            "name": "chaos",
            "source": [{"type": "http", "format": "json", "authentication": False}],
            "transforms": [],
            "destination": {
                "type": "r2",
                "format": "json",
                "batch": batch,
                "compression": {"type": "gzip"},
                "path": {"bucket": "chaos", "prefix": ""},
            },
        }
        request = urllib.request.Request(
            f"{credentials['url']}/client/v4/accounts/{credentials['account_id']}/pipelines",
            data=json.dumps(pipeline).encode(),
            headers={"Authorization": f"Bearer {credentials['token']}", "Content-Type": "application/json"},
        )
        created = json.loads(_when_ready(request))
        return Target("127.0.0.1", self.port, f"/ingest/{created['result']['id']}")

    @property
    def bucket(self) -> Path:
        return self.data / "buckets" / "chaos"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _living() -> list[tuple[int, int]]:
    """(process, parent) of all that live; a zombie does not."""
    shown = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in shown.splitlines()]
    return [(int(pid), int(parent)) for pid, parent, state in rows if not state.startswith("Z")]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _when_ready(request: urllib.request.Request) -> bytes:
    """The answer, with 503 taken for "not yet": one executor may be ready before the one it needs."""
    ends_at = time.monotonic() + READY_DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > ends_at:
                raise
        time.sleep(0.1)


def _answers_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
