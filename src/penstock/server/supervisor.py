"""The supervisor: it starts the executors, starts them again when they die, and stops them.

It imports everything before it forks, so that an executor is there again within milliseconds, and shares its
memory with its siblings. It is single-threaded and has no event loop: it waits for signals and for the status
pipes, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from penstock.apps.catalog import migrate
from penstock.base.clock import Clock, SystemClock
from penstock.base.errors import Fenced, PenstockError
from penstock.base.limits import EXECUTORS_MAX
from penstock.http.auth import Account
from penstock.objects.alarm_table import rehome
from penstock.server.executor import DRAINED, READY, STOP_SIGNALS, ExecutorPlace, run_executor
from penstock.server.instance import DataDir
from penstock.server.listen import Port
from penstock.server.logs import configure_logs
from penstock.server.node import OWN_NAMES
from penstock.server.settings import ServeSettings
from penstock.server.supervision import EXIT_DISK, EXIT_START, Health, Stop, on_executor_end
from penstock.storage.disk import OsDisk
from penstock.storage.secrets import SecretKey
from penstock.storage.sqlite_memory import spare_lookaside

log = structlog.get_logger("penstock.server")

#: What an executor may take to close its objects after the drain, before it is killed. Nothing is lost by it.
_CLOSE_SECONDS = 5.0


def _raise_descriptor_limit() -> None:
    """For the executors, which inherit it: an active object takes three descriptors, a connection one, and the
    usual soft limit of 1,024 is soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS takes no more than its kern.maxfilesperproc
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(settings: ServeSettings) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit code. 0: drained and stopped. 1: could not start, or had to
    kill. 70: executors do not start. 74: a disk refused to make data durable."""
    configure_logs(settings.log_format, process="supervisor")
    _raise_descriptor_limit()
    if not spare_lookaside():
        log.warning("sqlite_in_use", application=settings.application.source)
    try:
        if not 1 <= settings.executors <= EXECUTORS_MAX:
            raise PenstockError(f"--executors must be from 1 to {EXECUTORS_MAX}.")
        data_dir = DataDir(settings.data_dir)
        port = Port(settings.host, settings.port)
        instance, executors_before = data_dir.open_instance(port.url, settings.executors)
        found = instance
        instance, keys = data_dir.open_keys(instance, settings.secret_key_file)
        if executors_before != settings.executors:
            rehome(OsDisk(str(data_dir.path)), f"{data_dir.path}/alarms", settings.executors)
        if executors_before != settings.executors or instance != found:
            data_dir.save(instance)
        disk = OsDisk(str(data_dir.path))
        namespaces = migrate(disk, str(data_dir.path), settings.application, set(OWN_NAMES))
    except (PenstockError, OSError) as error:
        log.error("cannot_start", error=str(error))
        return EXIT_DISK if isinstance(error, Fenced) else 1
    with _sockets_folder(data_dir.path) as sockets_folder:
        supervisor = Supervisor(settings, instance.account, keys, port, sockets_folder, namespaces, SystemClock())
        return supervisor.run()


@contextlib.contextmanager
def _sockets_folder(data_dir: Path) -> Iterator[str]:
    """A private folder with a short path: a Unix socket's may have at most 107 bytes."""
    note = data_dir / "sockets"
    owner = f"{data_dir} {data_dir.stat().st_ino}"
    if note.is_symlink():
        # Of a server that was killed: we hold the lock, so it is nobody's now. In a copy of a data directory the
        # note is a copy as well, and the folder another server's.
        left = note.readlink()
        with contextlib.suppress(OSError):
            if (left / "owner").read_text() == owner:
                shutil.rmtree(left, ignore_errors=True)
        note.unlink()
    folder = tempfile.mkdtemp(prefix="penstock-")
    Path(folder, "owner").write_text(owner)
    note.symlink_to(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)


@dataclass(slots=True)
class _Executor:
    """A slot and the process in it; `pid` 0 between two lives."""

    slot: int
    health: Health
    pid: int = 0
    lifeline: int = -1
    status: int = -1
    ready: bool = False
    drained: bool = False
    start_at_ms: int | None = None
    starts: int = 0


class Supervisor:
    def __init__(
        self,
        settings: ServeSettings,
        account: Account,
        secret_keys: Sequence[SecretKey],
        port: Port,
        sockets_folder: str,
        namespaces: dict[str, str],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._account = account
        self._secret_keys = secret_keys
        self._port = port
        self._sockets_folder = sockets_folder
        self._namespaces = namespaces
        self._clock = clock
        self._executors = [_Executor(slot, Health(0)) for slot in range(settings.executors)]
        self._selector = selectors.DefaultSelector()
        self._signals_read, self._signals_write = socket.socketpair()
        self._announced = False
        self._stopping = False
        self._deadline_ms: int | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Start all executors and look after them until the end."""
        for end in (self._signals_read, self._signals_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signals_write.fileno())
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        self._selector.register(self._signals_read, selectors.EVENT_READ)
        for executor in self._executors:
            self._start(executor)
        while any(e.pid or e.start_at_ms is not None for e in self._executors):
            self._wait()
            self._reap()
            self._start_those_due()
            self._continue_stop()
        log.info("stopped", exit_code=self._exit_code)
        return self._exit_code

    # -- events -------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        for key, _ in self._selector.select(self._timeout_s()):
            if key.fileobj is self._signals_read:
                for number in self._signals_read.recv(4096):
                    if number in (signal.SIGTERM, signal.SIGINT):
                        self._on_stop_signal()
            else:
                self._on_status(key.data)

    def _timeout_s(self) -> float | None:
        times = [e.start_at_ms for e in self._executors if e.start_at_ms is not None]
        if self._deadline_ms is not None:
            times.append(self._deadline_ms)
        if not times:
            return None
        return max(0, min(times) - self._clock.elapsed_ms()) / 1000

    def _on_status(self, executor: _Executor) -> None:
        words = os.read(executor.status, 16)
        if not words:
            self._selector.unregister(executor.status)  # it is ending; SIGCHLD follows
        if READY in words:
            executor.ready = True
            executor.health = replace(executor.health, was_ready=True)
            log.info("executor_ready", executor=executor.slot, pid=executor.pid)
            if not self._announced and all(e.ready for e in self._executors):
                self._announced = True
                log.info("ready", url=self._port.url, executors=len(self._executors))
        if DRAINED in words:
            executor.drained = True
            if not self._stopping:  # somebody else told it to stop: let it end, and start another
                os.close(executor.lifeline)
                executor.lifeline = -1

    def _reap(self) -> None:
        for executor in self._executors:
            if not executor.pid:
                continue
            pid, status = os.waitpid(executor.pid, os.WNOHANG)
            if pid:
                self._on_end(executor, os.waitstatus_to_exitcode(status))

    def _on_end(self, executor: _Executor, exit_code: int) -> None:
        pid, executor.pid = executor.pid, 0
        with contextlib.suppress(KeyError):
            self._selector.unregister(executor.status)
        os.close(executor.status)
        if executor.lifeline >= 0:
            os.close(executor.lifeline)
        executor.ready = False
        if self._stopping:
            if exit_code:
                self._exit_code = self._exit_code or 1
                log.warning("executor_ended", executor=executor.slot, pid=pid, exit_code=exit_code)
            return
        executor.health, decision = on_executor_end(executor.health, exit_code, self._clock.elapsed_ms())
        log.warning("executor_ended", executor=executor.slot, pid=pid, exit_code=exit_code)
        if isinstance(decision, Stop):
            log.error("giving_up", reason=decision.reason, exit_code=decision.exit_code)
            self._exit_code = decision.exit_code
            self._stop()
        else:
            executor.start_at_ms = self._clock.elapsed_ms() + decision.after_ms

    # -- start --------------------------------------------------------------------------------------------

    def _start_those_due(self) -> None:
        for executor in self._executors:
            if executor.start_at_ms is not None and executor.start_at_ms <= self._clock.elapsed_ms():
                self._start(executor)

    def _start(self, executor: _Executor) -> None:
        executor.start_at_ms = None
        executor.drained = False
        executor.health = replace(executor.health, started_ms=self._clock.elapsed_ms())
        lifeline_read, executor.lifeline = os.pipe()
        executor.status, status_write = os.pipe()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._sockets_folder}/executor-{executor.slot}.sock")
        place = ExecutorPlace(
            executor.slot,
            self._settings,
            self._account,
            self._secret_keys,
            self._port,
            self._sockets_folder,
            self._namespaces,
            lifeline_read,
            status_write,
            executor.starts,
        )
        executor.starts += 1
        # A SIGTERM that comes between the fork and the executor's own handler has to wait for that: the handler
        # inherited from here would swallow it, and the default one would end the executor in its start.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        executor.pid = os.fork()
        if not executor.pid:
            self._become_executor(place)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        os.close(lifeline_read)
        os.close(status_write)
        self._selector.register(executor.status, selectors.EVENT_READ, executor)

    def _become_executor(self, place: ExecutorPlace) -> None:
        """In the child: forget the supervisor's own, run, and never return."""
        code = EXIT_START
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            self._signals_read.close()
            self._signals_write.close()
            for sibling in self._executors:
                # A lifeline that a child kept open would outlive the supervisor and never tell of its death.
                for fd in (sibling.lifeline, sibling.status):
                    if fd >= 0 and (sibling.pid or sibling.slot == place.slot):
                        os.close(fd)
            configure_logs(self._settings.log_format, process=f"executor-{place.slot}")
            code = run_executor(place)
        except BaseException:  # a child must never return into the supervisor's code
            log.critical("executor_failed", exc_info=True)
        finally:
            sys.stderr.flush()
            os._exit(code)

    # -- stop ---------------------------------------------------------------------------------------------

    def _on_stop_signal(self) -> None:
        if self._stopping:
            log.warning("stopping_now")
            self._deadline_ms = self._clock.elapsed_ms()
            return
        log.info("draining", seconds=self._settings.drain_seconds)
        self._stop()

    def _stop(self) -> None:
        """First every executor drains its requests, which may need the others' objects; then all of them end."""
        self._stopping = True
        # uvicorn takes whole seconds, one at the least; an executor must not be told to end before it has drained.
        self._deadline_ms = self._clock.elapsed_ms() + round(max(1, self._settings.drain_seconds) * 1000) + 500
        for executor in self._executors:
            executor.start_at_ms = None
            if executor.pid:
                os.kill(executor.pid, signal.SIGTERM)

    def _continue_stop(self) -> None:
        if not self._stopping or self._deadline_ms is None:
            return
        late = self._clock.elapsed_ms() >= self._deadline_ms
        alive = [e for e in self._executors if e.pid]
        if late and any(e.lifeline < 0 for e in alive):
            for executor in alive:
                log.warning("executor_killed", executor=executor.slot, pid=executor.pid)
                os.kill(executor.pid, signal.SIGKILL)
            self._deadline_ms = None
        elif (late or all(e.drained for e in alive)) and any(e.lifeline >= 0 for e in alive):
            for executor in alive:
                os.close(executor.lifeline)
                executor.lifeline = -1
            self._deadline_ms = self._clock.elapsed_ms() + round(_CLOSE_SECONDS * 1000)
