"""The demo's own server: a child process that never outlives the demo."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from penstock.cli.demo.wait import wait
from penstock.cli.errors import CliError

HOST = "127.0.0.1"
#: The server's own time to drain is 10 s; past this it hangs, and is killed.
STOP_SECONDS_MAX = 20.0
LOG_LINES_SHOWN = 15


def is_free(port: int) -> bool:
    """Whether nobody listens on `port`; 0 is always free."""
    with socket.socket() as probe:
        # As a server would bind: a port in TIME_WAIT is free, one with a listener is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def shown(folder: Path) -> str:
    """`folder` as a user would type it, and recognise as a folder."""
    return str(folder) if folder.is_absolute() else f"./{folder}"


class Server:
    """`penstock serve` with its defaults, on `data_dir` and `port`; a context manager that stops it.

    A port that is taken gives way to any free one. `url` is known when the server is ready, from its own words in
    its own log, so another server is never taken for it. The log is `server.log` in the data directory, once the
    folder is known to be ours.
    """

    def __init__(self, data_dir: Path, port: int, *, command: tuple[str, ...] | None = None) -> None:
        self.url = ""
        self.exit_code: int | None = None
        self._data_dir = data_dir
        self.wanted_port = port
        self.port = port if is_free(port) else 0
        # Another server may be using the folder, and write its own log there.
        self.log = data_dir / f"server-{os.getpid()}.log"
        self._command = command

    def __enter__(self) -> Server:
        existed = self._data_dir.is_dir()
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.log.touch()
        except OSError as error:
            reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
            verb = "write in" if existed else "make"
            raise CliError(f"cannot {verb} {shown(self._data_dir)} ({reason}); give --data-dir") from None
        self._start()
        return self

    def _start(self) -> None:
        command = self._command or (
            *(sys.executable, "-m", "penstock", "serve", "--log-format", "json"),
            *("--data-dir", str(self._data_dir), "--host", HOST, "--port", str(self.port)),
        )
        # The demo shows the defaults: settings meant for another server stay out.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # A session of its own: Ctrl-C reaches the demo alone, which then stops the server in order;
                # and the group can be killed whole, executors included, should the supervisor not answer.
                start_new_session=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, seconds: float) -> None:
        """Return when the server is ready and `url` is known; CliError with the end of its log when it never is."""
        if not wait(self._is_decided, seconds):
            raise CliError(f"the server was not ready within {seconds:g} s{self.log_tail()}")
        if self.is_running():
            self.url = str(self._logged("ready")["url"])
            self._keep_log()
            return
        reason = str(self._logged("cannot_start").get("error", ""))
        if "is in use by another" in reason:
            self.log.unlink(missing_ok=True)
            raise CliError(f"{shown(self._data_dir)} is in use by another server; stop it, or give --data-dir")
        self._keep_log()
        if reason:
            raise CliError(f"the server did not start: {reason}")
        reason = str(self._logged("giving_up").get("reason", ""))
        because = f": {reason}" if reason else ""
        raise CliError(f"the server ended with exit code {self._process.returncode}{because}{self.log_tail()}")

    def _is_decided(self) -> bool:
        """Whether the server is ready, or will never be."""
        if self.is_running():
            return bool(self._logged("ready"))
        if self.port and os.strerror(errno.EADDRINUSE) in str(self._logged("cannot_start").get("error")):
            # Somebody was faster than we between the look and the start.
            self.port = 0
            self._start()
            return False
        return True

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
        """The last lines of this server's log, to stand behind a message; empty when there are none."""
        lines = self._log_lines()
        if not lines:
            return ""
        return "\n".join(["", "The end of the server's log:", *("  " + line for line in lines[-LOG_LINES_SHOWN:])])

    def _keep_log(self) -> None:
        """The folder is ours, or nobody's: the log gets its proper name, in place of an earlier server's."""
        self.log = self.log.replace(self._data_dir / "server.log")

    def _logged(self, event: str) -> dict[str, Any]:
        """The fields of the first line about `event`; empty when there is none."""
        return next((fields for fields in self._fields() if fields.get("event") == event), {})

    def _fields(self) -> Iterator[dict[str, Any]]:
        for line in self._log_lines():
            with suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict):
                    yield fields

    def _log_lines(self) -> list[str]:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
