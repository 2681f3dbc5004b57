"""The processes under measurement: started, sampled for memory, ended by their own id."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.ticker import every

#: How often memory is sampled. Reading a process's PSS walks its page tables, which stops its memory mapping for
#: about a millisecond: often enough to see a peak, rarely enough not to make one.
SAMPLE_S = 0.5

_HERE = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start from the root of the repository, which need not be installed; what it prints goes to `log`."""
    path = os.pathsep.join(filter(None, (str(_HERE / "src"), str(_HERE), os.environ.get("PYTHONPATH"))))
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=_HERE,
            env={**os.environ, "PYTHONPATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def stop(process: subprocess.Popen[bytes], deadline_s: float = 30) -> int:
    """SIGTERM, then SIGKILL after the deadline. Gives the exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            for pid in reversed(tree(process.pid)):
                os.kill(pid, signal.SIGKILL)
    return process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], deadline_s: float = 20) -> None:
    """Until the URL answers anything but 503."""
    ends_at = time.monotonic() + deadline_s
    while time.monotonic() < ends_at:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with status {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{url} was not ready within {deadline_s} s")


def urlopen_when_ready(request: urllib.request.Request, deadline_s: float = 10) -> Any:
    """As `urlopen`, with 503 taken for "not yet": one executor may be ready before the one it needs."""
    ends_at = time.monotonic() + deadline_s
    while True:
        try:
            return urllib.request.urlopen(request, timeout=deadline_s)
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > ends_at:
                raise
        time.sleep(0.1)


def kill(pids: Sequence[int], deadline_s: float = 10) -> None:
    """SIGKILL to all; returns when none of them runs."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ends_at = time.monotonic() + deadline_s
    while any(map(_runs, pids)):
        if time.monotonic() > ends_at:
            raise RuntimeError(f"killed processes are still there after {deadline_s} s")
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    """A process that only waits for its parent to take notice of its end (Z) does not."""
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


def tree(root: int) -> list[int]:
    """A process and its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for line in subprocess.run(
        ["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def memory_bytes(pids: Sequence[int]) -> int:
    """Memory of several processes: the proportional set size (shared pages counted once) where the kernel tells
    it, otherwise the resident set size."""
    return sum(_pss_bytes(pid) for pid in pids)


def _pss_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return int(shown.strip() or 0) * 1024


def processor_s(pids: Sequence[int]) -> float:
    """Processor time that processes have taken, NaN where the system does not tell it finely (only Linux does).

    Beside requests per second it is the steadier figure: other programs on the machine do not change it much.
    """
    try:
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    except OSError:
        return math.nan
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


class MemoryPeak:
    bytes = 0


@contextmanager
def memory_peak(pids: Sequence[int] | Callable[[], Sequence[int]]) -> Iterator[MemoryPeak]:
    """Samples the processes until the end of the `with` block; those that `pids` gives each time, if it can be
    called."""
    peak = MemoryPeak()

    def sample() -> None:
        peak.bytes = max(peak.bytes, memory_bytes(pids() if callable(pids) else pids))

    with every(SAMPLE_S, sample):
        yield peak
