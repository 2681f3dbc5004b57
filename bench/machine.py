"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import apsw

_ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = ("uvicorn", "httptools", "uvloop", "msgspec", "apsw")


def commit() -> str:
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout.strip() or "unknown"


def describe(folder: Path, program: str, load: str) -> dict[str, str]:
    """`folder` is where the data goes, `load` what makes the load, on the same cores."""
    return {
        "commit": commit(),
        "command": " ".join([f"python -m {program}", *sys.argv[1:]]),
        "processor": f"{_cpu_model()}, {os.cpu_count()} cores, shared with {load}",
        "kernel": f"{platform.system()} {platform.release()}, {_filesystem(folder)}",
        "python": f"{platform.python_version()}, SQLite {apsw.sqlite_lib_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "fdatasync of 4 KiB": _sync_ms(folder),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _filesystem(folder: Path) -> str:
    shown = subprocess.run(
        ["df", "-T", str(folder)], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    return f"{shown[1].split()[1]} on {shown[1].split()[0]}" if len(shown) > 1 else "file system unknown"


def _sync_ms(folder: Path) -> str:
    """A disk that answers a sync in microseconds is not syncing; the reader should see it."""
    path = folder / "sync-probe"
    took = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    for _ in range(200):
        os.write(descriptor, b"x" * 4096)
        started = time.perf_counter()
        getattr(os, "fdatasync", os.fsync)(descriptor)
        took.append(time.perf_counter() - started)
    os.close(descriptor)
    path.unlink()
    took.sort()
    return f"{took[100] * 1e3:.2f} ms in the median, {took[197] * 1e3:.2f} ms in the 99th percentile"
