"""One chaos run: a real server, clients, a nemesis, and an audit of every record.

kill -9 ends a process but not the machine: what was written survives in the page cache whether or not it was
synced. So this shows that recovery works, not that syncs happen where they must; the simulator, whose disk
forgets what was not synced, shows that.

The seed fixes what clients and nemesis choose. What the kernel schedules in between is not fixed, so the same seed
is the same trouble, not the same run.
"""

from __future__ import annotations

import asyncio
import json
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
from .plan import plan
from .server import DRAIN_DEADLINE_S, ServerTree

#: Patient clients send many records and pause; eager ones always have a request under way, for each kill to hit.
_PATIENT, _EAGER = Habits(records_max=40, pause_s=0.006), Habits(records_max=3, pause_s=0)
DELIVERY_DEADLINE_S = 60
#: How long after the last expected record an unexpected one is waited for: more than the longest batch takes.
_QUIET_S = 5.0


@dataclass(frozen=True)
class Lane:
    """A pipeline with clients of its own."""

    name: str
    batch: dict[str, object]
    clients: tuple[Habits, ...]
    compression: str = "gzip"
    prefix: str = ""


#: In all about 20,000 records a second, which the audit can still look at one by one.
BRISK, _CALM = LANES = (
    # Small files, so that they are sealed, written, and their rows freed all the time, and kills fall into that.
    Lane("brisk", {"max_bytes": 200_000, "max_duration_s": 1}, (_PATIENT,) * 6 + (_EAGER,) * 3),
    # Files that wait for their time, mostly longer than until the next kill, and hold thousands of requests, so
    # that their rows are freed in several transactions (`FREE_SLICE_ROWS`); and nothing to compress.
    Lane("calm", {"max_duration_s": 4}, (_PATIENT,) * 2 + (_EAGER,) * 8, "none", "web/clicks"),
)


@dataclass
class _Traffic:
    """What a lane's clients know, and what its files say."""

    lane: Lane
    ledger: Ledger
    bucket: Bucket

    def audit(self) -> list[str]:
        self.bucket.read_new_files()
        tally = self.bucket.tally
        found = self.ledger.violations + self.bucket.violations
        found = found + self.bucket.check_unchanged() + tally.check(self.ledger)
        if not self.ledger.records(Outcome.ACKED):
            found.append("nothing was acknowledged: the run shows nothing")
        return [f"{self.lane.name}: {violation}" for violation in found]

    def unknown_but_stored(self) -> int:
        unknown = (sent for sent in self.ledger.sent if sent.outcome is Outcome.UNKNOWN)
        return sum(sent.count for sent in unknown if self.bucket.tally.has_all(sent))

    def __str__(self) -> str:
        answers = ", ".join(f"{answer}: {count}" for answer, count in sorted(self.ledger.answers.items()))
        outcomes = ", ".join(f"{self.ledger.records(outcome)} {outcome.value}" for outcome in Outcome)
        return (
            f"{self.lane.name}: answers {answers}; records: {outcomes} ({self.unknown_but_stored()} of them "
            f"stored); {len(self.bucket)} files with {len(self.bucket.tally)} records"
        )


@dataclass
class Report:
    seed: int
    kills_wanted: int
    kills: list[Kill] = field(default_factory=list)
    traffic: list[_Traffic] = field(default_factory=list)
    load_s: float = 0
    delivery_s: float = 0
    drain_s: float = 0
    #: Kept when anything was violated.
    folder: Path | None = None
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*(f"  {kill}" for kill in self.kills), self.summary()])

    def summary(self) -> str:
        lines = [
            f"seed {self.seed}: {len(self.kills)} kills in {self.load_s:.0f} s",
            f"to the first 200: {_spread([kill.first_s for kill in self.kills])}",
            f"until all executors served: {_spread([kill.all_s for kill in self.kills])}; of it waiting for "
            f"processors that others had: {_spread([kill.waited_for_others_s for kill in self.kills])}",
            *map(str, self.traffic),
            f"all acknowledged records in files {self.delivery_s:.1f} s after the load; "
            f"SIGTERM under load drained in {self.drain_s:.2f} s",
            *(f"VIOLATION: {violation}" for violation in self.violations[:30]),
        ]
        if self.violations:
            lines.append(
                f"{len(self.violations)} violations; all of them, what was sent, data and log: {self.folder}"
            )
            lines.append(f"again: python -m tests.chaos --seed {self.seed} --kills {self.kills_wanted}")
        return "\n".join(lines)

    def write_down(self, folder: Path) -> None:
        """For whoever looks for the reason: everything that happened, and what was sent and became of it."""
        self.folder = folder
        (folder / "report.txt").write_text("\n".join([str(self), "", *self.violations, ""]))
        with (folder / "sent.jsonl").open("w") as file:
            for traffic in self.traffic:
                for sent in traffic.ledger.sent:
                    row = [traffic.lane.name, sent.client, sent.first, sent.count, sent.outcome.value, sent.sent_at]
                    file.write(json.dumps(row) + "\n")


def run(seed: int, kills: int, executors: int = 2) -> Report:
    """Runs for one to two seconds per kill. The data directory is kept when anything was violated."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
    server = ServerTree(folder, executors)
    try:
        report = asyncio.run(_Run(server, seed, kills).run())
    except BaseException as error:
        error.add_note(f"seed {seed}; data and log are kept in {folder}")
        raise
    finally:
        server.clean_up()
    if report.violations:
        report.write_down(folder)
    else:
        shutil.rmtree(folder)
    return report


class _Run:
    def __init__(self, server: ServerTree, seed: int, kills: int) -> None:
        self._server = server
        self._rng = random.Random(seed)
        self._strikes = plan(random.Random(self._rng.random()), kills)
        self._report = Report(seed, kills)

    async def run(self) -> Report:
        self._server.start()
        await self._server.wait_ready()
        await self._load()
        await self._wait_delivered()
        await self._drain()
        if left := self._server.unfinished_files():
            self._report.violations.append(f"unfinished files that nobody will finish: {left}")
        for traffic in self._report.traffic:
            self._report.violations += traffic.audit()
        return self._report

    async def _load(self) -> None:
        report, stop, clients = self._report, asyncio.Event(), []
        for lane in LANES:
            target = await asyncio.to_thread(
                self._server.create_pipeline,
                lane.name,
                batch=lane.batch,
                compression=lane.compression,
                prefix=lane.prefix,
            )
            bucket = Bucket(
                self._server.bucket(lane.name),
                prefix=f"{lane.prefix}/" if lane.prefix else "",
                gzipped=lane.compression == "gzip",
            )
            report.traffic.append(_Traffic(lane, Ledger(), bucket))
            clients += [
                (Client(number, target, report.traffic[-1].ledger), habits)
                for number, habits in enumerate(lane.clients, 1)
            ]
            if lane is BRISK:
                probe = Client(0, target, report.traffic[-1].ledger)
        brisk, calm = (traffic.bucket for traffic in report.traffic)
        nemesis = Nemesis(self._server, brisk, calm, probe)
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                for traffic in report.traffic:
                    tasks.create_task(traffic.bucket.watch(stop))
                for client, habits in clients:
                    tasks.create_task(client.run(stop, random.Random(self._rng.random()), habits))
                await nemesis.run(self._strikes)
                report.drain_s = await self._drain()
                self._server.start()
                await self._server.wait_ready()
                stop.set()
        finally:
            probe.close()
        report.load_s = time.monotonic() - started
        report.kills = nemesis.kills
        report.violations += nemesis.violations
        report.violations += [f"too slow: {kill}" for kill in nemesis.kills if kill.too_slow]

    async def _drain(self) -> float:
        """SIGTERM; gives how long it took."""
        self._server.tree()
        started = time.monotonic()
        status = await self._server.terminate()
        passed = time.monotonic() - started
        if status is None:
            self._report.violations.append(f"SIGTERM: it still ran after {DRAIN_DEADLINE_S} s")
            self._server.kill_all()
        elif status:
            self._report.violations.append(f"SIGTERM: exit status {status}, not 0")
        if left := self._server.left_over():
            self._report.violations.append(f"SIGTERM left processes behind: {left}")
        return passed

    async def _wait_delivered(self) -> None:
        """Until each acknowledged record is in a file, or the audit may say which is not; and a while longer."""
        started = time.monotonic()
        acked = [
            (traffic.bucket, sent)
            for traffic in self._report.traffic
            for sent in traffic.ledger.sent
            if sent.outcome is Outcome.ACKED
        ]
        while acked and time.monotonic() - started < DELIVERY_DEADLINE_S:
            for traffic in self._report.traffic:
                await asyncio.to_thread(traffic.bucket.read_new_files)
            acked = [(bucket, sent) for bucket, sent in acked if not bucket.tally.has_all(sent)]
            await asyncio.sleep(0.1)
        self._report.delivery_s = time.monotonic() - started
        # A duplicate, or a record of a request whose outcome is unknown, may come with the next file.
        await asyncio.sleep(_QUIET_S)


def _spread(times: list[float | None]) -> str:
    known = sorted(time for time in times if time is not None)
    if not known:
        return "not waited for"
    return f"median {known[len(known) // 2]:.3f} s, max {known[-1]:.3f} s"
