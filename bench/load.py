"""The load: a fixed number of connections, each sending the next request when the last one was answered.

`wrk` where it is installed, because it takes the least processor from the server it shares the machine with;
otherwise `bench/load_client.py`, in a process of its own. Both give the same `Load`.

The loop is closed: a slow server is asked less often. So the latency is that of this load, at most
`connections / latency` requests a second; and at 64 connections a p50 below 5 ms implies at least about 12,800
requests a second. (wrk corrects its percentiles for requests that were not sent because an earlier one was slow;
the client does not.)
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the load saw. `ok` counts answers below 400; `lost` counts broken connections and
    timeouts."""

    ok: int
    non_200: int
    lost: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    #: Of `ok`, those of each address, where there are several.
    ok_of_each: tuple[int, ...] = ()

    @property
    def requests_per_s(self) -> float:
        return self.ok / self.seconds


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "asyncio client"


def run(url: str, bodies: Path, *, connections: int, seconds: float, pause_ms: int = 0) -> Load:
    """Load `url` for `seconds` (wrk: whole ones) with the lines of a file. Each connection waits `pause_ms` after
    an answer. Raises RuntimeError when the generator did not work."""
    if not shutil.which("wrk"):
        return run_each([url], bodies, connections=connections, seconds=seconds, pause_ms=pause_ms)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    return _run([*command, "-s", str(_HERE / "wrk.lua"), url, "--", str(bodies), str(pause_ms)], seconds)


def run_each(urls: Sequence[str], bodies: Path, *, connections: int, seconds: float, pause_ms: int = 0) -> Load:
    """As `run`, with as many connections to each of `urls`, `connections` in all. Always with the client: what wrk
    sends is taken in turn from one list, whichever connection it is sent on, so each address would get as much."""
    command = [sys.executable, str(_HERE / "load_client.py"), ",".join(urls), str(connections), str(seconds)]
    return _run([*command, str(bodies), str(pause_ms)], seconds)


def _run(command: Sequence[str], seconds: float) -> Load:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"the load generator failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    r = json.loads(lines[0].removeprefix("RESULT "))
    if not r["requests"]:
        raise RuntimeError(f"the load generator had no answer: {done.stdout[-500:]} {done.stderr[-500:]}")
    return Load(
        ok=r["requests"] - r["non_200"],
        non_200=r["non_200"],
        lost=r["lost"],
        seconds=r["microseconds"] / 1e6,
        p50_ms=r["p50_us"] / 1e3,
        p99_ms=r["p99_us"] / 1e3,
        max_ms=r["max_us"] / 1e3,
        ok_of_each=tuple(r.get("ok_of_each", ())),
    )
