"""Moving messages from one queue to another, dead letters back to where they came from in most cases.

One object for each queue that is redriven from, with its latest job. A job moves what its queue has when it
begins, so what fails again and comes back does not go round for ever. Each step looks at some messages of a shard,
stores those that are wanted in their target, deletes them here, and notes how far it got. A crash between any two
of these repeats a step: the target recognises what it has by its `dedup_id`, and what is deleted is not found
again.

The alarm is the only driver, so a job that lost its process goes on by itself; the rate is kept by when it is set.
"""

from __future__ import annotations

from typing import Literal

import structlog
from msgspec import Struct, json
from msgspec.structs import replace

from penstock.base.errors import Conflict, NotFound, PenstockError
from penstock.base.ids import random_id
from penstock.base.limits import QUEUE_BATCH_MESSAGES_MAX, QUEUE_REDRIVE_RETRY_MS_MAX, QUEUE_REDRIVE_STEPS
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.queues.environment import QueueEnv
from penstock.queues.message import Extra, Message, NewMessage, decode_messages, encode_new
from penstock.queues.shard_map import ShardMap
from penstock.queues.storage_shard import StorageStatus

log = structlog.get_logger("penstock.queues")

_TABLES = """
CREATE TABLE IF NOT EXISTS job (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  job TEXT NOT NULL                -- RedriveJob
) STRICT
"""


class RedriveFilter(Struct, frozen=True):
    """Which messages are moved: those for which all holds that is said. Times are wall time."""

    #: Why they are dead letters: `handler_failed`, `retry_asked` or `lease_ended`.
    reason: str | None = None
    #: The name of the queue that they come from.
    origin: str | None = None
    #: Bytes that their body has in it, as UTF-8.
    contains: str | None = None
    sent_since_ms: int | None = None
    sent_before_ms: int | None = None

    def wants(self, message: Message) -> bool:
        origin = message.extra.origin if message.extra is not None else None
        return (
            (self.reason is None or (origin is not None and origin.reason == self.reason))
            and (self.origin is None or (origin is not None and origin.queue_name == self.origin))
            and (self.contains is None or self.contains.encode() in message.body)
            and (self.sent_since_ms is None or message.sent_ms >= self.sent_since_ms)
            and (self.sent_before_ms is None or message.sent_ms < self.sent_before_ms)
        )


class RedriveOrder(Struct, frozen=True):
    """`target`: id of the queue that messages go to; empty: each to the queue that it is a dead letter of.
    `rate`: messages a second at the most, None without a bound."""

    target: str
    filter: RedriveFilter = RedriveFilter()
    rate: int | None = None


class ShardProgress(Struct, frozen=True):
    """How far a shard has been looked at, and how far it is to be."""

    shard: str
    done_to: int
    last: int


class RedriveJob(Struct, frozen=True):
    """`skipped`: messages that the filter does not want, or that are no dead letters and so have no queue to go
    back to. `error`: why it waits or, of a job that has failed, ended."""

    id: str
    order: RedriveOrder
    state: Literal["running", "completed", "cancelled", "failed"]
    started_ms: int
    shards: list[ShardProgress]
    moved: int = 0
    skipped: int = 0
    failures: int = 0
    error: str = ""
    ended_ms: int | None = None


class Redrive(DurableObject[QueueEnv]):
    """Its name is the id of the queue that messages are taken from."""

    def __init__(self, ctx: Context, env: QueueEnv) -> None:
        super().__init__(ctx, env)
        self._sql = SystemSql(system_storage(ctx.storage))
        self._sql.exec(_TABLES)
        row = self._sql.exec("SELECT job FROM job").first()
        self._job: RedriveJob | None = json.decode(row[0], type=RedriveJob) if row else None

    async def start(self, order: RedriveOrder) -> RedriveJob:
        """Begin a job. Raises `Conflict` while another is running, `NotFound` without the queue or its target."""
        self._refuse_if_running()
        shards = []
        source = await self._map_of(self.ctx.name)
        if order.target:
            await self._map_of(order.target)
        for shard in source.shards:
            status: StorageStatus = await self.ctx.namespace("StorageShard").get_by_name(shard.name).status()
            shards.append(ShardProgress(shard.name, 0, status.last_sequence))
        self._refuse_if_running()
        now_ms = self.ctx.clock.now_ms()
        self._save(RedriveJob(random_id(self.ctx.rng), order, "running", now_ms, shards))
        self.ctx.storage.set_alarm(now_ms)
        return self.job()

    def job(self) -> RedriveJob:
        """The latest job. Raises `NotFound` if there never was one."""
        if self._job is None:
            raise NotFound("Nothing was ever redriven from this queue.")
        return self._job

    def cancel(self) -> RedriveJob:
        """End the job; what was moved stays where it is. Of one that has ended already nothing changes. Raises
        `NotFound`."""
        job = self.job()
        if job.state == "running":
            self._end("cancelled", job.error)
        return self.job()

    def _refuse_if_running(self) -> None:
        if self._job is not None and self._job.state == "running":
            raise Conflict("Messages are being redriven from this queue already; wait, or cancel that first.")

    async def alarm(self, info: AlarmInfo) -> None:
        for _ in range(QUEUE_REDRIVE_STEPS):
            job = self._job
            if job is None or job.state != "running":
                return
            try:
                wait_ms = await self._step(job)
            except NotFound as error:
                if self._is_current(job):
                    self._end("failed", error.message)
                return
            except PenstockError as error:
                if self._is_current(job):
                    self._put_off(error)
                return
            if wait_ms is None:
                return
            if wait_ms:
                self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + wait_ms)
                return
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms())

    async def _step(self, job: RedriveJob) -> int | None:
        """Look at some messages and move those that are wanted. Gives how long to wait before the next step, None
        if there is none."""
        progress = next((shard for shard in job.shards if shard.done_to < shard.last), None)
        if progress is None:
            self._end("completed", "")
            return None
        limit = min(QUEUE_BATCH_MESSAGES_MAX, job.order.rate or QUEUE_BATCH_MESSAGES_MAX)
        shard = self.ctx.namespace("StorageShard").get_by_name(progress.shard)
        seen = [
            m for m in decode_messages(await shard.peek(progress.done_to, limit)) if m.sequence <= progress.last
        ]
        wanted = [message for message in seen if job.order.filter.wants(message)]
        moved = await self._move(job, wanted)
        if moved:
            await shard.purge_messages(moved)
        if not self._is_current(job):
            return None
        done_to = seen[-1].sequence if len(seen) == limit else progress.last
        shards = [replace(s, done_to=done_to) if s.shard == progress.shard else s for s in job.shards]
        self._save(
            replace(
                job,
                shards=shards,
                moved=job.moved + len(moved),
                skipped=job.skipped + len(seen) - len(moved),
                failures=0,
                error="",
            )
        )
        return len(moved) * 1000 // job.order.rate if job.order.rate else 0

    async def _move(self, job: RedriveJob, wanted: list[Message]) -> list[int]:
        """Store messages in their target. Gives the numbers of those that are there."""
        by_target: dict[str, list[Message]] = {}
        for message in wanted:
            origin = message.extra.origin if message.extra is not None else None
            target = job.order.target or (origin.queue_id if origin is not None else "")
            if target and target != self.ctx.name:
                by_target.setdefault(target, []).append(message)
        moved: list[int] = []
        for target, messages in by_target.items():
            target_map = await self._map_of(target)
            home = self.ctx.namespace("StorageShard").get_by_name(target_map.shards[0].name)
            await home.append(encode_new([_again(job, message) for message in messages]), target_map.version)
            moved += [message.sequence for message in messages]
        return moved

    async def _map_of(self, queue_id: str) -> ShardMap:
        shard_map: ShardMap = await self.ctx.namespace("QueueCoordinator").get_by_name(queue_id).shard_map()
        return shard_map

    def _is_current(self, job: RedriveJob) -> bool:
        """Whether a job still runs after others had their turn."""
        return self._job is not None and self._job.id == job.id and self._job.state == "running"

    def _put_off(self, error: PenstockError) -> None:
        """What is away now may be there later."""
        job = self.job()
        failures = job.failures + 1
        wait_ms = min(QUEUE_REDRIVE_RETRY_MS_MAX, 500 << min(failures, 10))
        if error.retry_after_s is not None:
            wait_ms = max(wait_ms, error.retry_after_s * 1000)
        self._save(replace(job, failures=failures, error=error.message))
        log.warning("redrive_put_off", queue=self.ctx.name, job=job.id, retry_in_ms=wait_ms, error=error.message)
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + wait_ms)

    def _end(self, state: Literal["completed", "cancelled", "failed"], error: str) -> None:
        job = replace(self.job(), state=state, error=error, ended_ms=self.ctx.clock.now_ms())
        self._save(job)
        log.info(
            "redrive_ended", queue=self.ctx.name, job=job.id, state=state, moved=job.moved, error=error or None
        )

    def _save(self, job: RedriveJob) -> None:
        self._job = job
        self._sql.exec("INSERT OR REPLACE INTO job VALUES (0, ?1)", json.encode(job).decode())


def _again(job: RedriveJob, message: Message) -> NewMessage:
    """A message for its new queue. It keeps its id, and where it was a dead letter of."""
    origin = message.extra.origin if message.extra is not None else None
    return NewMessage(
        content_type=message.content_type,
        body=message.body,
        delay_ms=0,
        dedup_id=f"redrive/{job.id}/{message.id}",
        extra=Extra(source="redrive", id=message.id, sent_ms=message.sent_ms, origin=origin),
    )
