"""A real server: a supervisor, its executors, a data directory; and how to kill them.

Processes are ended by their id, and only those of this tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .client import Target
from .plan import Kind, Strike

_ROOT = Path(__file__).resolve().parents[2]
#: `penstock serve --drain-seconds` defaults to 10; the rest is for closing databases.
DRAIN_DEADLINE_S = 20
READY_DEADLINE_S = 30


class ServerTree:
    def __init__(self, folder: Path, executors: int, app: Path | None = None) -> None:
        self._app = app
        self.data = folder / "data"
        self.log = folder / "server.log"
        #: For the server's sockets, which a killed server leaves until the next start.
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        self.port = _free_port()
        self.executors_wanted = executors
        self._process: subprocess.Popen[bytes]
        #: Every process of any generation of the tree.
        self._seen: set[int] = set()
        self._guard = Guard()

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
            *(["--app", str(self._app)] if self._app else []),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--executors", str(self.executors_wanted), "--log-format", "json"],
                env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(self._temporary)},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self._seen.add(self._process.pid)
        self._guard.watch(self._process.pid)

    @property
    def ended(self) -> bool:
        """Whether the supervisor is gone."""
        return self._process.poll() is not None

    @property
    def exit_status(self) -> int | None:
        return self._process.poll()

    def tree(self) -> list[int]:
        """The living: the supervisor, then its executors."""
        executors = sorted(pid for pid, parent in _living() if parent == self._process.pid)
        self._seen.update(executors)
        return [self._process.pid, *executors]

    def kill(self, strike: Strike, tree: list[int]) -> None:
        """kill -9 of what `strike` says. `tree` is that of a moment ago, because to find out takes time."""
        supervisor, *executors = tree
        assert supervisor == self._process.pid
        if strike.kind is Kind.EXECUTOR and executors:
            _kill(executors[int(strike.victim * len(executors))])
            return
        # First the supervisor, so that it restarts nobody; and where there is no executor yet, only it.
        self._process.kill()
        if strike.kind is Kind.EVERYTHING:
            for pid in executors:
                _kill(pid)
        self._process.wait()
        self._guard.watch(0)

    def kill_all(self) -> None:
        self.kill(Strike(Kind.EVERYTHING), self.tree())

    async def terminate(self) -> int | None:
        """SIGTERM; the exit status, None if it took longer than the drain deadline."""
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, DRAIN_DEADLINE_S)
        return self._process.poll()

    def left_over(self) -> list[int]:
        """Processes of this tree that live, of those that `tree` has ever shown."""
        living = {pid for pid, _ in _living()}
        return sorted(self._seen & living)

    def clean_up(self) -> None:
        """Ends all that is still there; nothing if the server was never started."""
        if self._seen and not self.ended:
            self.kill_all()
        for pid in self.left_over():
            _kill(pid)
        self._guard.end()

    async def wait_ready(self) -> None:
        ends_at = time.monotonic() + READY_DEADLINE_S
        while time.monotonic() < ends_at and not self.ended:
            if await asyncio.to_thread(_answers_200, f"http://127.0.0.1:{self.port}/readyz"):
                self.tree()
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the server did not become ready: {self.log.read_text()[-2000:]}")

    def logged(self, event: str) -> int:
        """How often, since the first start."""
        return self.log.read_text().count(f'"event": "{event}"')

    def wait_logged(self, event: str, times: int) -> None:
        """Returns in less than a millisecond after the line was written. Blocks."""
        ends_at = time.monotonic() + READY_DEADLINE_S
        while self.logged(event) < times:
            assert time.monotonic() < ends_at, f"{event} was not logged"
            time.sleep(0.0001)

    def control(self, method: str, path: str = "", body: object = None) -> tuple[int, Any]:
        """A request to the pipelines of the account: status and answer. Raises OSError or HTTPException when no
        answer came. Blocks."""
        credentials = tomllib.loads((self.data / "credentials.toml").read_text())
        request = urllib.request.Request(
            f"{credentials['url']}/client/v4/accounts/{credentials['account_id']}/pipelines{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {credentials['token']}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def control_until_answered(self, method: str, path: str = "", body: object = None) -> tuple[int, Any]:
        """As `control`, and asks again for as long as the answer is lost or 503. Blocks."""
        ends_at = time.monotonic() + READY_DEADLINE_S
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, answer = self.control(method, path, body)
                if status != 503:
                    return status, answer
            assert time.monotonic() < ends_at, f"{method} {path} was not answered in {READY_DEADLINE_S} s"
            time.sleep(0.05)

    def result(self, method: str, path: str = "", body: object = None) -> Any:
        """As `control_until_answered`, of a request that is granted."""
        status, answer = self.control_until_answered(method, path, body)
        assert status == 200, answer
        return answer["result"]

    def create_pipeline(
        self, name: str, *, batch: dict[str, object], compression: str = "gzip", prefix: str = "", **more: object
    ) -> Target:
        """A pipeline into a bucket of its name, unauthenticated; where its records go."""
        return self.create(pipeline_body(name, batch=batch, compression=compression, prefix=prefix, **more))

    def create(self, body: dict[str, Any]) -> Target:
        created = self.result("POST", "", body)
        return Target("127.0.0.1", self.port, f"/ingest/{created['id']}")

    def bucket(self, name: str) -> Path:
        return self.data / "buckets" / name

    def unfinished_files(self) -> list[str]:
        """What is being written, or was when the process died."""
        try:
            return sorted(os.listdir(self.data / "unfinished"))
        except FileNotFoundError:
            return []

    def wait_for_unfinished_file(self, seconds_max: float) -> None:
        """Returns within about a millisecond of the beginning of the next file. Blocks."""
        _wait_for_more(self.unfinished_files, seconds_max)

    def spooled_files(self) -> list[str]:
        """What was prepared and is not delivered yet, or is not known to be."""
        # Folders go while they are looked at, which this does not mind.
        return sorted(f"{folder}/{name}" for folder, _, names in os.walk(self.data / "spool") for name in names)

    def wait_for_spooled_file(self, seconds_max: float) -> None:
        """As `wait_for_unfinished_file`, of one that is prepared."""
        _wait_for_more(self.spooled_files, seconds_max)


def pipeline_body(
    name: str, *, batch: dict[str, object], compression: str = "gzip", prefix: str = "", **more: object
) -> dict[str, Any]:
    """What makes a pipeline into a bucket of its name."""
    return {
        "name": name,
        "source": [{"type": "http", "format": "json", "authentication": False}],
        "transforms": [],
        "destination": {
            "type": "r2",
            "format": "json",
            "batch": batch,
            "compression": {"type": compression},
            "path": {"bucket": name, "prefix": prefix},
            **more,
        },
    }


def _wait_for_more(names: Callable[[], list[str]], seconds_max: float) -> None:
    before, ends_at = set(names()), time.monotonic() + seconds_max
    while not set(names()) - before and time.monotonic() < ends_at:
        time.sleep(0.0005)


class Guard:
    """Kills a process (a supervisor, whose executors follow by themselves) when this one is gone, however it went.

    A test run may be killed (a time limit, a closed terminal), and a server left behind would be there for good.
    The guard is a process that waits for the end of a pipe, which the kernel closes for us.
    """

    _PROGRAM = """
import contextlib, os, signal, sys
pids = [int(line) for line in sys.stdin]
if pids and pids[-1]:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pids[-1], signal.SIGKILL)
"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what ends our group must not end it
            bufsize=0,
        )

    def watch(self, pid: int) -> None:
        """From now on this one; 0 for none."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % pid)

    def end(self) -> None:
        assert self._process.stdin is not None
        self.watch(0)
        self._process.stdin.close()
        self._process.wait()


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


def _answers_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except (OSError, http.client.HTTPException):
        return False  # not there yet, or killed while it answered
