"""The demo's own server: a child process that never outlives the demo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from penstock.cli.demo.wait import wait
from penstock.cli.errors import CliError

HOST = "127.0.0.1"
#: The server's own time to drain is 10 s; past this it hangs, and is killed.
STOP_SECONDS_MAX = 20.0
LOG_LINES_SHOWN = 15


def pick_port(wanted: int) -> int:
    """`wanted` when it is free, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As a server would bind: a port in TIME_WAIT is free, one with a listener is not.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CliError(f"no free port on {HOST}")


class Server:
    """`penstock serve` with its defaults, on `data_dir` and `port`; a context manager that stops it.

    Its log goes to `server.log` in the data directory.
    """

    def __init__(self, data_dir: Path, port: int, *, command: tuple[str, ...] | None = None) -> None:
        self.url = f"http://{HOST}:{port}"
        self.log = data_dir / "server.log"
        self.exit_code: int | None = None
        self._command = command or (
            *(sys.executable, "-m", "penstock", "serve"),
            *("--data-dir", str(data_dir), "--host", HOST, "--port", str(port)),
        )

    def __enter__(self) -> Server:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # The demo shows the defaults: settings meant for another server stay out.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # A session of its own: Ctrl-C reaches the demo alone, which then stops the server in order;
                # and the group can be killed whole, executors included, should the supervisor not answer.
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, is_ready: Callable[[], bool], seconds: float) -> None:
        """Return when the server is ready; CliError with the end of its log when it never is."""
        if not wait(lambda: not self.is_running() or is_ready(), seconds):
            raise CliError(f"the server was not ready within {seconds:g} s{self.log_tail()}")
        if not self.is_running():
            raise CliError(f"the server ended with exit code {self._process.returncode}{self.log_tail()}")

    def stop(self) -> None:
        """End the server and all its processes; the second call does nothing."""
        if self.exit_code is not None:
            return
        if self.is_running():
            self._process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS_MAX)
        finally:
            # Also after an orderly end: whatever is left of the group should not be.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self.exit_code = self._process.wait()

    def log_tail(self) -> str:
        """The last lines of the log, to stand behind a message; empty when there are none."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        if not lines:
            return ""
        return "\n".join(["", "The end of the server's log:", *("  " + line for line in lines[-LOG_LINES_SHOWN:])])
