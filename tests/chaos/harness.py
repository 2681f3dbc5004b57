"""One chaos run: a real server, clients, a nemesis, and an audit of every record.

kill -9 ends a process but not the machine: what was written survives in the page cache whether or not it was
synced. So this shows that recovery works, not that syncs happen where they must; the simulator, whose disk
forgets what was not synced, shows that.

The seed fixes what clients and nemesis choose. What the kernel schedules in between is not fixed, so the same seed
is the same trouble, not the same run.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from .bucket import Bucket
from .client import Client, Habits
from .ledger import Ledger, Outcome
from .nemesis import Kill, Nemesis
from .server import DRAIN_DEADLINE_S, ServerTree

#: Patient clients send many records and pause; eager ones always have a request under way, for each kill to hit.
#: In all about 30,000 records a second, which the audit can still look at one by one.
CLIENTS = (*[Habits(records_max=40, pause_s=0.006)] * 8, *[Habits(records_max=3, pause_s=0)] * 8)
#: Small, so that files are sealed, written, and their rows freed all the time, and kills fall into that.
BATCH: dict[str, object] = {"max_bytes": 200_000, "max_duration_s": 1, "max_rows": 100_000}
RECOVERY_S_MAX = 2.0
DELIVERY_DEADLINE_S = 60


@dataclass
class Report:
    seed: int
    kills: list[Kill]
    ledger: Ledger
    unknown_stored: int = 0
    files: int = 0
    records_in_files: int = 0
    load_s: float = 0
    delivery_s: float = 0
    drain_s: float = 0
    data: Path | None = None
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        answers = ", ".join(f"{answer}: {count}" for answer, count in sorted(self.ledger.answers.items()))
        outcomes = ", ".join(f"{self.ledger.records(outcome)} {outcome.value}" for outcome in Outcome)
        lines = [
            f"seed {self.seed}",
            *(f"  {kill}" for kill in self.kills),
            f"{len(self.kills)} kills in {self.load_s:.0f} s; {_spread(self.kills)}",
            f"answers: {answers}",
            f"records: {outcomes} ({self.unknown_stored} of them stored)",
            f"{self.files} files, {self.records_in_files} records, all {self.delivery_s:.1f} s after the load",
            f"SIGTERM under load drained in {self.drain_s:.2f} s",
            *(f"VIOLATION: {violation}" for violation in self.violations[:20]),
        ]
        if self.violations:
            lines.append(f"{len(self.violations)} violations; data and log are kept in {self.data}")
            lines.append(f"again: python -m tests.chaos --seed {self.seed} --kills {len(self.kills)}")
        return "\n".join(lines)


def run(seed: int, kills: int, executors: int = 2) -> Report:
    """Runs for about two seconds per kill. The data directory is kept when anything was violated."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
    server = ServerTree(folder, executors)
    try:
        report = asyncio.run(_Run(server, seed, kills).run())
    finally:
        server.clean_up()
    if report.violations:
        report.data = folder
    else:
        shutil.rmtree(folder)
    return report


class _Run:
    def __init__(self, server: ServerTree, seed: int, kills: int) -> None:
        self._server = server
        self._kills = kills
        self._rng = random.Random(seed)
        self._bucket = Bucket(server.bucket)
        self._ledger = Ledger()
        self._report = Report(seed, [], self._ledger)

    async def run(self) -> Report:
        self._server.start()
        await self._server.wait_ready()
        await self._load()
        await self._wait_delivered()
        await self._end()
        self._audit()
        return self._report

    async def _load(self) -> None:
        target = await asyncio.to_thread(self._server.create_pipeline, BATCH)
        started, stop = time.monotonic(), asyncio.Event()
        probe = Client(0, target, self._ledger)
        nemesis = Nemesis(self._server, self._bucket, probe, random.Random(self._rng.random()))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._bucket.watch(stop))
            for number, habits in enumerate(CLIENTS, 1):
                client = Client(number, target, self._ledger)
                tasks.create_task(client.run(stop, random.Random(self._rng.random()), habits))
            await nemesis.run(self._kills)
            await self._drain()
            self._server.start()
            await self._server.wait_ready()
            stop.set()
            probe.close()
        self._report.load_s = time.monotonic() - started
        self._report.kills = nemesis.kills
        self._report.violations += nemesis.violations
        self._report.violations += [
            f"{kill} (at most {RECOVERY_S_MAX} s)"
            for kill in nemesis.kills
            if (kill.recovery_s or 0) > RECOVERY_S_MAX
        ]

    async def _drain(self) -> None:
        started = time.monotonic()
        status = await self._server.terminate()
        self._report.drain_s = time.monotonic() - started
        if status is None:
            self._report.violations.append(f"SIGTERM: it still ran after {DRAIN_DEADLINE_S} s")
            self._server.kill_all()
        elif status:
            self._report.violations.append(f"SIGTERM: exit status {status}, not 0")
        if left := self._server.left_over():
            self._report.violations.append(f"SIGTERM left processes behind: {left}")

    async def _wait_delivered(self) -> None:
        started = time.monotonic()
        acked = [sent for sent in self._ledger.sent if sent.outcome is Outcome.ACKED]
        while acked and time.monotonic() - started < DELIVERY_DEADLINE_S:
            await asyncio.to_thread(self._bucket.read_new_files)
            acked = [sent for sent in acked if not self._bucket.tally.has_all(sent)]
            await asyncio.sleep(0.1)
        self._report.delivery_s = time.monotonic() - started
        # A duplicate, or a record of a request whose outcome is unknown, may come with the next file.
        await asyncio.sleep(2.5)

    async def _end(self) -> None:
        drain_s = self._report.drain_s
        await self._drain()
        self._report.drain_s = drain_s

    def _audit(self) -> None:
        self._bucket.read_new_files()
        report, bucket = self._report, self._bucket
        report.files, report.records_in_files = len(bucket), len(bucket.tally)
        report.unknown_stored = sum(
            sent.count
            for sent in self._ledger.sent
            if sent.outcome is Outcome.UNKNOWN and bucket.tally.has_all(sent)
        )
        report.violations += self._ledger.violations
        report.violations += bucket.violations
        report.violations += bucket.check_unchanged()
        report.violations += bucket.tally.check(self._ledger)
        if not self._ledger.records(Outcome.ACKED):
            report.violations.append("nothing was acknowledged: the run shows nothing")


def _spread(kills: list[Kill]) -> str:
    times = sorted(kill.recovery_s for kill in kills if kill.recovery_s is not None)
    if not times:
        return "no recovery was waited for"
    return f"to the first 200: median {times[len(times) // 2]:.3f} s, max {times[-1]:.3f} s"
