"""Sends dead letters again: the records of dead-letter files, each once, after a fix.

A file's records go to the pipeline as it is now, in pieces that are always cut alike, each under an idempotency key
of its own. So an attempt that was cut short is made again from the file's beginning, and what was stored by then is
not stored twice. That holds as long as keys are remembered; an attempt that began before that is left to people.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog
from msgspec import DecodeError, Struct

from penstock.base.errors import Conflict, Corrupt, NotFound, Overloaded, StorageFull, Unavailable
from penstock.base.limits import IDEMPOTENCY_KEY_MS, REPLAY_MS_MAX, REPLAY_PIECE_BYTES
from penstock.objects import Runtime
from penstock.pipelines.broker import Broker
from penstock.pipelines.coordinator import ShardRef
from penstock.pipelines.dead_letters import DeadLetter, read_dead_letters
from penstock.pipelines.history import History, read_history
from penstock.pipelines.ledger import REPLAYED, LedgerFile
from penstock.pipelines.records import Batch
from penstock.pipelines.stored_file import plain_pieces, read_facts
from penstock.storage.disk_guard import DiskGuard

log = structlog.get_logger("penstock.pipelines")

_HOUR_MS = 3_600_000
#: Files asked for at once.
_PAGE = 16


class ReplayCursor(Struct, frozen=True, omit_defaults=True):
    """The last file done. Files that were sealed at `until_ms` or later are left alone: they may be of records that
    were just sent again, in vain."""

    until_ms: int
    shard: str = ""
    segment: str = ""


class Skipped(Struct, frozen=True):
    """A dead-letter file that was not sent, or not in full."""

    key: str
    message: str


@dataclass(slots=True)
class ReplayStep:
    """What one step sent: files, and their records by reason. `cursor` is None when nothing is left to send.
    `retry_after_s`: the pipeline takes no more for now, as `waits_for` says; go on after that time."""

    files: int = 0
    records: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    cursor: ReplayCursor | None = None
    retry_after_s: int | None = None
    waits_for: str = ""

    def add(self, reasons: dict[str, int]) -> None:
        self.files += 1
        self.records += sum(reasons.values())
        for reason, records in reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + records


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """Which dead letters: of segments sealed since `since_ms`; with a `reason` those alone that are dead by it.
    `limit`: files of one step."""

    since_ms: int
    reason: str | None
    limit: int
    dry_run: bool

    def reasons_of(self, file: LedgerFile) -> dict[str, int]:
        """The reasons whose records are to be sent, with how many there are."""
        return {
            reason: records
            for reason, records in sorted(file.reasons.items())
            if file.replay.get(reason) != REPLAYED and self.reason in (None, reason)
        }


class Replayer:
    def __init__(self, runtime: Runtime, broker: Broker, guard: DiskGuard) -> None:
        self._runtime = runtime
        self._ports = runtime.ports
        self._broker = broker
        self._guard = guard

    async def step(self, id: str, request: ReplayRequest, cursor: ReplayCursor | None) -> ReplayStep:
        """Send the next dead letters of the pipeline with this id, for about `REPLAY_MS_MAX`.

        Raises `NotFound` if it is deleted, `Unavailable`, and what the bucket's store does."""
        history = await read_history(self._runtime, id)
        at = cursor or ReplayCursor(self._ports.clock.now_ms())
        end_ms = self._ports.clock.elapsed_ms() + REPLAY_MS_MAX
        step = ReplayStep()
        async with aclosing(self._files(history, request, at)) as files:
            async for shard, file in files:
                reasons = request.reasons_of(file)
                if reasons and not request.dry_run:
                    try:
                        await self._replay(id, history, shard, file, reasons, step)
                    except (Overloaded, StorageFull) as error:
                        step.cursor, step.waits_for = at, error.message
                        step.retry_after_s = error.retry_after_s or 1
                        return step
                elif reasons:
                    step.add(reasons)
                at = ReplayCursor(at.until_ms, shard.name, file.segment)
                if step.files >= request.limit or self._ports.clock.elapsed_ms() >= end_ms:
                    step.cursor = at
                    break
        return step

    async def _files(
        self, history: History, request: ReplayRequest, at: ReplayCursor
    ) -> AsyncGenerator[tuple[ShardRef, LedgerFile], None]:
        """The dead-letter files after the cursor."""
        names = [shard.name for shard in history.shards]
        first = names.index(at.shard) if at.shard in names else 0
        for shard in history.shards[first:]:
            stub = self._runtime.namespace("StreamShard").get_by_name(shard.name)
            after = at.segment if shard.name == at.shard else ""
            while True:
                page: list[LedgerFile] = await stub.dead_files(request.since_ms, at.until_ms, after, _PAGE)
                for file in page:
                    yield shard, file
                    after = file.segment
                if len(page) < _PAGE:
                    break

    async def _replay(
        self,
        id: str,
        history: History,
        shard: ShardRef,
        file: LedgerFile,
        reasons: dict[str, int],
        step: ReplayStep,
    ) -> None:
        """All records of the file that are dead by these reasons."""
        settings = history.settings_of(shard.version)
        store = history.store(self._ports, settings)
        place = (store, self._ports.offload, settings.bucket, file.key, settings.compression)
        try:
            facts = await read_facts(*place)
        except NotFound as error:
            await store.list(settings.bucket, file.key, limit=1)  # raises if it is the bucket that is not there
            step.skipped.append(Skipped(file.key, error.message))
            return
        if facts.sha256 != file.sha256 or facts.lines != file.records:
            message = "It was changed since it was delivered. Restore it, or send its records yourself."
            step.skipped.append(Skipped(file.key, message))
            return
        stub = self._runtime.namespace("StreamShard").get_by_name(shard.name)
        begun: dict[str, int] = await stub.replay_begun(file.segment, file.key, list(reasons))
        # An hour less: keys are remembered from before the first piece was stored, but not for ever after.
        if any(begun[reason] < self._ports.clock.now_ms() - IDEMPOTENCY_KEY_MS + _HOUR_MS for reason in reasons):
            message = (
                "An attempt to send it again was cut short about a day ago or more, and which of its records were "
                "stored is not known any more. Compare it with the pipeline's files; send what is missing yourself."
            )
            step.skipped.append(Skipped(file.key, message))
            return
        try:
            async with aclosing(plain_pieces(*place)) as pieces:
                async for reason, number, batch in pieces_of(_letters(pieces), reasons):
                    await self._send(id, batch, _key(file, reason, number))
        except RecursionError:
            # How deep is too deep depends on the caller's stack: what was taken may not be readable here.
            message = (
                "It has a record that is nested too deeply to be read here; those before it may have been sent. "
                "Compare it with the pipeline's files; send what is missing yourself."
            )
            step.skipped.append(Skipped(file.key, message))
            return
        await stub.replayed(file.segment, file.key, list(reasons))
        step.add(reasons)
        log.info("dead_letters_replayed", pipeline=id, key=file.key, reasons=reasons)

    async def _send(self, id: str, batch: Batch, key: str) -> None:
        self._guard.check()
        for _ in range(2):
            try:
                await self._broker.send(await self._broker.route(id), batch, key)
            except Conflict:
                continue  # it changed since its plan was cached
            return
        raise Unavailable("The pipeline is being changed.", retry_after_s=1)


async def _letters(pieces: AsyncIterator[bytes]) -> AsyncIterator[DeadLetter]:
    rest = b""
    async for piece in pieces:
        lines, _, rest = (rest + piece).rpartition(b"\n")
        try:
            for letter in read_dead_letters(lines):
                yield letter
        except DecodeError as error:
            raise Corrupt(f"It is no dead-letter file: {error}.") from error


async def pieces_of(
    letters: AsyncIterator[DeadLetter], reasons: Iterable[str]
) -> AsyncIterator[tuple[str, int, Batch]]:
    """The records that are dead by these reasons, in pieces of about `REPLAY_PIECE_BYTES`: reason, number, records.
    The same letters give the same pieces of a reason, whatever other reasons are asked for."""
    waiting: dict[str, list[bytes]] = {reason: [] for reason in reasons}
    sizes = dict.fromkeys(waiting, 0)
    numbers = dict.fromkeys(waiting, 0)
    async for letter in letters:
        reason = letter.reason
        if reason not in waiting:
            continue
        waiting[reason].append(bytes(letter.record) + b"\n")
        sizes[reason] += len(letter.record) + 1
        if sizes[reason] >= REPLAY_PIECE_BYTES:
            yield reason, numbers[reason], _batch(waiting[reason])
            waiting[reason], sizes[reason] = [], 0
            numbers[reason] += 1
    for reason, records in waiting.items():
        if records:
            yield reason, numbers[reason], _batch(records)


def _batch(records: list[bytes]) -> Batch:
    return Batch(b"".join(records), len(records))


def _key(file: LedgerFile, reason: str, number: int) -> str:
    """No key of a request can be the same: it could not have a control character."""
    name = hashlib.sha256(file.key.encode()).hexdigest()
    return f"\x01replay/{name}/{reason}/{number}"
