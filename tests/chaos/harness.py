"""One chaos run: a real server, clients, kills, changes of settings, an S3 server that goes away; and an audit of
every record.

A run has rounds. At the end of each the load stops, everything is delivered, every generation but the newest is
drained, and three look at the files: the clients' ledger, this test's own reader of buckets, and the server's
`verify`. They must agree on every record.

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
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.s3 import WRITER, S3Server

from .bucket import Bucket, Folder, S3Bucket
from .changes import Changer, Settings
from .client import Client, Habits
from .ledger import Ledger, Outcome
from .nemesis import Kill, Nemesis
from .outages import Outages
from .plan import Moment, Outage, Plan, plan
from .s3_proxy import S3Proxy
from .server import DRAIN_DEADLINE_S, Guard, ServerTree, pipeline_body
from .verification import verify

#: Patient clients send many records and pause; eager ones always have a request under way, for each kill to hit.
_PATIENT, _EAGER = Habits(records_max=40, pause_s=0.006), Habits(records_max=3, pause_s=0)
#: The same with an Idempotency-Key, each request sent until it is acknowledged.
_STUBBORN, _HASTY = (
    Habits(records_max=40, pause_s=0.012, keyed=True),
    Habits(records_max=3, pause_s=0.004, keyed=True),
)
#: Of the tries to reach an S3 server, after an outage under which they became rare; and of all deliveries.
DELIVERY_DEADLINE_S = 120
#: Kills between two audits.
ROUND_KILLS = 50
#: More violations than this are one story.
_SHOWN_MAX = 30
_APPLICATION = Path(__file__).with_name("application.py")


@dataclass(frozen=True)
class Lane:
    """A pipeline with clients of its own. Its settings start as the first of each and change from there."""

    name: str
    clients: tuple[Habits, ...]
    batches: tuple[dict[str, object], ...]
    compression: str = "gzip"
    prefixes: tuple[str, ...] = ("", "web/clicks", "a/b")
    s3: bool = False
    transforms: bool = False
    #: Its records' own time chooses their file.
    by_time: bool = False


#: In all some 15,000 records a second, which the audit can still look at one by one.
BRISK, CALM, AWAY, SHAPED = LANES = (
    # Small files, so that they are sealed, written, and their rows freed all the time, and kills fall into that.
    Lane(
        "brisk",
        (_PATIENT,) * 3 + (_EAGER,) * 2 + (_STUBBORN, _HASTY),
        ({"max_bytes": 200_000, "max_duration_s": 1}, {"max_duration_s": 0.5}, {"max_rows": 1500}),
    ),
    # Files that wait for their time, mostly longer than until the next kill, and hold thousands of requests, so
    # that their rows are freed in several transactions (`FREE_SLICE_ROWS`); and nothing to compress.
    Lane(
        "calm",
        (_PATIENT,) + (_EAGER,) * 5 + (_HASTY,),
        ({"max_duration_s": 4}, {"max_duration_s": 3}, {"max_duration_s": 5, "max_rows": 50_000}),
        "none",
        ("web/clicks", "", "x"),
    ),
    Lane(
        "away",
        (_PATIENT,) * 2 + (_EAGER, _STUBBORN, _HASTY),
        ({"max_duration_s": 1}, {"max_bytes": 300_000, "max_duration_s": 2}, {"max_duration_s": 0.5}),
        s3=True,
    ),
    Lane(
        "shaped",
        (_STUBBORN, _EAGER, _HASTY),
        ({"max_duration_s": 1}, {"max_rows": 1000, "max_duration_s": 2}, {"max_duration_s": 3}),
        "zstd",
        s3=True,
        transforms=True,
        by_time=True,
    ),
)


@dataclass
class _Traffic:
    """What a lane's clients know, and what its files say."""

    lane: Lane
    settings: Settings
    ledger: Ledger
    bucket: Bucket
    clients: list[tuple[Client, Habits]]
    totals: Counter[str] = field(default_factory=Counter)

    def audit(self) -> list[str]:
        """What is wrong in this round, which is then done with."""
        bucket, ledger = self.bucket, self.ledger
        found = ledger.violations + bucket.violations + bucket.tally.violations
        if not bucket.read_new_files():
            found.append("its bucket cannot be read")
        found = found + bucket.check_unchanged() + bucket.tally.check(ledger)
        if not ledger.records(Outcome.ACKED):
            found.append("nothing was acknowledged: the round shows nothing")
        for outcome in Outcome:
            self.totals[outcome.value] += ledger.records(outcome)
        self.totals["unknown but stored"] += self._unknown_but_stored()
        return found

    def clear(self) -> None:
        self.ledger.clear()
        self.bucket.tally.clear()

    def undelivered(self) -> int:
        return sum(
            sent.outcome is Outcome.ACKED and not self.bucket.tally.has_all(sent) for sent in self.ledger.sent
        )

    def _unknown_but_stored(self) -> int:
        unknown = (sent for sent in self.ledger.sent if sent.outcome is Outcome.UNKNOWN)
        return sum(sent.count for sent in unknown if self.bucket.tally.has_all(sent))

    def __str__(self) -> str:
        answers = ", ".join(f"{answer}: {count}" for answer, count in sorted(self.ledger.answers.items()))
        totals = ", ".join(f"{count} {outcome}" for outcome, count in self.totals.items())
        dead = "".join(f", {count} dead ({reason})" for reason, count in self.bucket.dead.items())
        return (
            f"{self.lane.name}: answers {answers}; records: {totals}; {len(self.bucket)} files with "
            f"{self.bucket.records} records{dead}; {self.settings.generations} generations"
        )


@dataclass
class Report:
    seed: int
    command: str
    kills: list[Kill] = field(default_factory=list)
    traffic: list[_Traffic] = field(default_factory=list)
    outages: list[tuple[Outage, float]] = field(default_factory=list)
    changes: int = 0
    refused_keys: int = 0
    load_s: float = 0
    delivery_s: list[float | None] = field(default_factory=list)
    drained_s: list[float | None] = field(default_factory=list)
    verify_s: list[float | None] = field(default_factory=list)
    stop_s: list[float | None] = field(default_factory=list)
    #: Kept when anything was violated.
    folder: Path | None = None
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*(f"  {kill}" for kill in self.kills), self.summary()])

    def summary(self) -> str:
        away = ", ".join(f"{outage.absence.value} for {lasted_s:.1f} s" for outage, lasted_s in self.outages)
        lines = [
            f"seed {self.seed}: {len(self.kills)} kills in {self.load_s:.0f} s of load, {self.changes} changes of "
            f"settings ({self.refused_keys} keys refused), the S3 server {away or 'always there'}",
            f"to the first 200: {_spread([kill.first_s for kill in self.kills])}",
            f"until all executors served: {_spread([kill.all_s for kill in self.kills])}; of it waiting for "
            f"processors that others had: {_spread([kill.waited_for_others_s for kill in self.kills])}",
            *map(str, self.traffic),
            f"after the load of a round: all acknowledged records in files: {_spread(self.delivery_s)}; all older "
            f"generations drained: {_spread(self.drained_s)}; verified: {_spread(self.verify_s)}",
            f"SIGTERM under load drained: {_spread(self.stop_s)}",
            *(f"VIOLATION: {violation}" for violation in self.violations[:_SHOWN_MAX]),
        ]
        if self.violations:
            lines.append(
                f"{len(self.violations)} violations; all of them, what was sent, data and log: {self.folder}"
            )
            lines.append(f"again: {self.command}")
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


def run(seed: int, kills: int, updates: int, outages: int, executors: int = 2) -> Report:
    """Runs for one to two seconds per kill. The data directory is kept when anything was violated."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
    server = ServerTree(folder, executors, _APPLICATION)
    s3 = S3Server(folder / "s3")
    command = f"python -m tests.chaos --seed {seed} --kills {kills} --updates {updates} --outages {outages}"
    report = Report(seed, f"{command} --executors {executors}")
    try:
        asyncio.run(_Run(server, s3, report, kills, updates, outages).run())
    except BaseException as error:
        error.add_note(f"again: {report.command}; data and log are kept in {folder}")
        raise
    finally:
        server.clean_up()
        s3.stop()
    if report.violations:
        report.write_down(folder)
    else:
        shutil.rmtree(folder)
    return report


class _Run:
    def __init__(
        self, server: ServerTree, s3: S3Server, report: Report, kills: int, updates: int, outages: int
    ) -> None:
        self._server = server
        self._s3 = s3
        self._s3_guard = Guard()
        self._proxy = S3Proxy(s3.port)
        self._rng = random.Random(report.seed)
        self._report = report
        rounds = max(1, round(kills / ROUND_KILLS))
        self._plans = [
            plan(
                random.Random(self._rng.random()),
                *(_part(count, rounds, number) for count in (kills, updates, outages)),
            )
            for number in range(rounds)
        ]

    async def run(self) -> None:
        await self._proxy.start()
        try:
            await asyncio.to_thread(self._s3.start)
            self._s3_guard.watch(self._s3.pid)
            self._server.start()
            await self._server.wait_ready()
            for lane in LANES:
                self._report.traffic.append(await asyncio.to_thread(self._traffic, lane))
            for plan in self._plans:
                await self._round(plan)
                if self._report.violations:
                    break  # what was sent is still in the ledgers
                for traffic in self._report.traffic:
                    traffic.clear()
            await self._stop()
        finally:
            for traffic in self._report.traffic:
                for client, _ in traffic.clients:
                    client.close()
            await self._proxy.stop()
            self._s3_guard.end()
        if left := self._server.unfinished_files() + self._server.spooled_files():
            self._report.violations.append(f"unfinished files that nobody will finish: {left}")

    def _traffic(self, lane: Lane) -> _Traffic:
        """Makes the pipeline. Blocks."""
        more: dict[str, object] = {}
        endpoint = ""
        files: Folder | S3Bucket = Folder(self._server.bucket(lane.name))
        if lane.s3:
            endpoint = self._proxy.endpoint
            self._s3.make_bucket(lane.name)
            more["credentials"] = {"endpoint": endpoint}
            files = S3Bucket(self._s3.endpoint, lane.name, WRITER.access_key_id, WRITER.secret_access_key)
        if lane.by_time:
            more["partition_time"] = {"field": "at", "format": "unix_s"}
        body = pipeline_body(
            lane.name, batch=lane.batches[0], compression=lane.compression, prefix=lane.prefixes[0], **more
        )
        if lane.transforms:
            body["transforms"] = [{"name": "shaped"}]
        settings = Settings(body, lane.prefixes, lane.batches, lane.transforms, endpoint)
        target = self._server.create(settings.with_key(WRITER) if lane.s3 else body)
        ledger = Ledger()
        clients = [(Client(number, target, ledger), habits) for number, habits in enumerate(lane.clients, 1)]
        if lane is BRISK:
            self._probe = Client(0, target, ledger)
        bucket = Bucket(files, lane.prefixes, by_time=lane.by_time)
        return _Traffic(lane, settings, ledger, bucket, clients)

    async def _round(self, plan: Plan) -> None:
        await self._load(plan)
        for traffic in self._report.traffic:
            traffic.ledger.violations += await self._settled(traffic)
        started = time.monotonic()
        for traffic in self._report.traffic:
            found = await asyncio.to_thread(traffic.audit)
            verdict = await asyncio.to_thread(verify, self._server.data, traffic.lane.name)
            bucket = traffic.bucket
            found += verdict.disagreements(bucket.records, len(bucket), bucket.dead.total())
            self._report.violations += [f"{traffic.lane.name}: {violation}" for violation in found]
        self._report.verify_s.append(time.monotonic() - started)

    async def _load(self, plan: Plan) -> None:
        report, stop = self._report, asyncio.Event()
        changer = Changer(self._server, [traffic.settings for traffic in report.traffic])
        outages = Outages(self._s3, self._s3_guard)
        nemesis = Nemesis(self._server, self._waits(changer), self._probe)
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for traffic in report.traffic:
                tasks.create_task(traffic.bucket.watch(stop))
                for client, habits in traffic.clients:
                    tasks.create_task(client.run(stop, random.Random(self._rng.random()), habits))
            beside = [
                tasks.create_task(changer.run(plan.changes, nemesis.progress)),
                tasks.create_task(outages.run(plan.outages, nemesis.progress)),
            ]
            await nemesis.run(plan.strikes)
            await self._finished(beside)
            report.stop_s.append(await self._stop())
            self._server.start()
            await self._server.wait_ready()
            stop.set()
        self._probe.close()
        report.load_s += time.monotonic() - started
        report.kills += nemesis.kills
        report.outages += outages.lasted
        report.changes += changer.made
        report.refused_keys += changer.refused_keys
        report.violations += nemesis.violations + changer.violations
        report.violations += [f"too slow: {kill}" for kill in nemesis.kills if kill.too_slow]

    async def _finished(self, beside: list[asyncio.Task[None]]) -> None:
        """What waits for kills that will not come any more, after the nemesis has given up, waits in vain."""
        done, waiting = await asyncio.wait(beside, timeout=DELIVERY_DEADLINE_S)
        for task in waiting:
            task.cancel()
        if waiting:
            self._report.violations.append("not all changes and outages were made")
        for task in done:
            task.result()

    def _waits(self, changer: Changer) -> dict[Moment, Callable[[float], None]]:
        return {
            Moment.FILE_BEGUN: self._server.wait_for_unfinished_file,
            Moment.FILE_VISIBLE: Folder(self._server.bucket(BRISK.name)).wait_for_new_file,
            Moment.FREEING: Folder(self._server.bucket(CALM.name)).wait_for_new_file,
            Moment.SPOOLED: self._server.wait_for_spooled_file,
            Moment.UPLOAD_BEGUN: self._proxy.wait_begun,
            Moment.UPLOADED: self._proxy.wait_answered,
            Moment.SETTINGS: changer.wait_sent,
        }

    async def _stop(self) -> float:
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

    async def _settled(self, traffic: _Traffic) -> list[str]:
        """Until all is delivered, and only the newest generation takes part: then nothing can come any more."""
        name, found = traffic.lane.name, []

        def delivered() -> bool:
            traffic.bucket.read_new_files()
            return not traffic.undelivered()

        def at_rest() -> bool:
            return bool(self._server.result("GET", f"/{name}")["backlog"]["records"] == 0)

        def drained() -> bool:
            _, *older = self._server.result("GET", f"/{name}/deployments")
            return all(deployment["state"] == "drained" for deployment in older)

        for condition, times in (
            (delivered, self._report.delivery_s),
            (at_rest, []),
            (drained, self._report.drained_s),
        ):
            times.append(passed := await _until(condition))
            if passed is None:
                found.append(f"it is not {condition.__name__} after {DELIVERY_DEADLINE_S} s: {self._say(name)}")
        deployments = self._server.result("GET", f"/{name}/deployments")
        wanted = traffic.settings.generations
        if len(deployments) < wanted or (traffic.settings.exact and len(deployments) > wanted):
            found.append(f"there are {len(deployments)} generations, of {wanted} that were made")
        return found

    def _say(self, name: str) -> Any:
        return self._server.result("GET", f"/{name}"), self._server.result("GET", f"/{name}/deployments")


async def _until(condition: Callable[[], bool]) -> float | None:
    """Seconds until it holds, looked at in a thread; None if it does not."""
    started = time.monotonic()
    while time.monotonic() - started < DELIVERY_DEADLINE_S:
        if await asyncio.to_thread(condition):
            return time.monotonic() - started
        await asyncio.sleep(0.1)
    return None


def _part(count: int, parts: int, number: int) -> int:
    """The size of one of nearly equal parts."""
    return count * (number + 1) // parts - count * number // parts


def _spread(times: list[float | None]) -> str:
    known = sorted(time for time in times if time is not None)
    if not known:
        return "not waited for"
    return f"median {known[len(known) // 2]:.3f} s, max {known[-1]:.3f} s"
