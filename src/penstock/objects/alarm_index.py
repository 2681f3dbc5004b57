"""The durable index of alarms: it finds the objects that must wake, in memory or not.

One per executor, for the objects that the executor owns. Its invariants are in `alarm.py`. Finding what is due
costs two look-ups in an index, however many alarms are pending.

When the index cannot be written, on a full disk say, it is opened again until it can. Meanwhile whoever needs it
is refused with the reason, and no harm is done by what was lost of it: of the changes that nobody waits for, each
moves an entry to a later time or removes it, and an entry that stays early is put right when it fires.

**Firing that ends the process.** The handler of a user's class may take all the memory, or crash in C. The next
process would fire its alarm again, and so for ever, each time with the end of all else that runs here. So before an
entry fires it is written down, durably, that it does, and by which life of the executor. Where a process finds the
mark of another one, that one has not seen the end. It counts as a failed try, and the pause before the next one
doubles. Which of those that fired at the time is to blame is not known: they fire one at a time from then on, so
that each that ends is cleared.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

import structlog

from penstock.base.errors import Fenced, PenstockError, Unavailable
from penstock.base.limits import ALARMS_RUNNING_MAX
from penstock.objects import alarm_table
from penstock.objects.alarm import pause_after_loss_ms
from penstock.objects.committer import Committer
from penstock.objects.identity import ObjectId
from penstock.storage.database import Database
from penstock.storage.ports import Ports
from penstock.storage.relay import Commit

log = structlog.get_logger("penstock.objects")

#: An object that could not be woken (its disk is full, say) is tried again after this time.
_RETRY_MS = 1_000
#: Waiting longer than this in one go would notice a jump of the wall clock too late.
_SLEEP_MS_MAX = 1_000


class AlarmIndex:
    """`fire` is called for each entry that is due, by one task per object at a time, with the object and how many
    tries have ended with their process. It gives True when it has settled the entry; one that it left as it was is
    not fired again before somebody settles it, or a while has passed. `system` gives the namespaces of Penstock's
    own classes: they have places of their own among those that fire at once, and their handlers are trusted.
    `on_fatal` is called when nothing can be made durable any more. The log starts anew when it is longer than
    `wal_bytes_max`."""

    def __init__(
        self,
        ports: Ports,
        path: str,
        tasks: asyncio.TaskGroup,
        *,
        fire: Callable[[ObjectId, int], Awaitable[bool]],
        system: Callable[[], Collection[str]],
        on_fatal: Callable[[PenstockError], None],
        wal_bytes_max: int,
    ) -> None:
        self._ports = ports
        self._path = path
        self._tasks = tasks
        self._fire = fire
        self._system = system
        self._on_fatal = on_fatal
        self._wal_bytes_max = wal_bytes_max
        self._checkpointing = False
        self._committer: Committer
        #: What fires: objects of users' classes, and those of Penstock's own.
        self._running: tuple[set[ObjectId], set[ObjectId]] = (set(), set())
        #: The one that fires though it may have ended a process.
        self._suspect: ObjectId | None = None
        #: Which opening of the index was this process's first: no other process has had it.
        self._life = 0
        #: How far the wall clock is ahead of the loop's, when last looked at.
        self._ahead_ms = 0
        self._changed = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Raises what `Database.open` raises."""
        database = await self._ports.offload.run("database", partial(Database.open, self._ports.disk, self._path))
        self._life = self._life or database.opening
        self._committer = Committer(
            *(database, self._ports.relay, "alarms", self._tasks),
            on_broken=self._on_broken,
            on_commit=self._on_commit,
        )
        alarm_table.create_tables(self._committer.execute)
        for namespace in self._system():
            self._committer.execute(alarm_table.OWN, (namespace,))
        self._committer.execute(alarm_table.PUT_ON, (0,))
        await self._committer.wait_durable()

    async def close(self) -> None:
        """Fire nothing more; whoever uses the index from now on gets `Unavailable`. What could not be written is
        lost: entries that stay early do no harm."""
        self._closed = True
        with contextlib.suppress(PenstockError):
            await self._committer.wait_durable()  # of those that were stopped while they fired
        if self._committer.broken is None:
            self._committer.break_with(Unavailable("The index of alarms is closed.", retry_after_s=1))
            await self._close_database()

    async def _close_database(self) -> None:
        await self._committer.wait_shipped()
        await self._ports.offload.run("database", self._committer.database.close)

    def _on_commit(self, commit: Commit | None) -> None:
        if commit is not None and commit.offset_bytes > self._wal_bytes_max and not self._checkpointing:
            self._checkpointing = True
            self._tasks.create_task(self._start_epoch(self._committer))

    async def _start_epoch(self, committer: Committer) -> None:
        """Copy the log back, mostly beside the loop. What was added meanwhile is little, and is copied on the loop,
        in a moment in which nothing is open: nobody can write then, so the next write starts the log anew. (Where
        there is no such moment the next commit tries again.)"""
        checkpoint = committer.database.checkpoint
        try:
            await self._ports.offload.run("database", checkpoint)
            await committer.wait_durable()
            if committer.is_settled and committer.broken is None:
                checkpoint()
        except Fenced as error:
            self._on_fatal(error)
        except PenstockError as error:
            log.warning("alarm_index_not_checkpointed", error=error.message)
        finally:
            self._checkpointing = False

    def _on_broken(self, error: PenstockError) -> None:
        if isinstance(error, Fenced):
            self._on_fatal(error)
        elif not self._closed:
            log.warning("alarm_index_broken", error=error.message)
            self._tasks.create_task(self._open_again())

    async def _open_again(self) -> None:
        try:
            await self._close_database()
        except PenstockError as error:
            log.warning("alarm_index_not_closed_cleanly", error=error.message)
        while not self._closed:
            try:
                await self.open()
            except Fenced as error:
                self._on_fatal(error)
                return
            except PenstockError as error:
                log.warning("alarm_index_not_opened", error=error.message)
                await self._ports.clock.sleep_ms(_RETRY_MS)
            else:
                self._changed.set()
                return

    @property
    def pending(self) -> int | None:
        """Entries in the index; None while it is broken."""
        try:
            count: int = self._committer.execute("SELECT count(*) FROM alarms").get
        except PenstockError:
            return None
        return count

    def indexed_ms(self, id: ObjectId) -> int | None:
        """When the entry of this object fires, None if it has none. Raises a `PenstockError` while the index is
        broken, as `schedule` and `settle` do."""
        row = self._committer.execute(
            "SELECT at_ms FROM alarms WHERE namespace = ?1 AND key = ?2", (id.namespace, id.key)
        ).fetchone()
        return row[0] if row else None

    async def schedule(self, id: ObjectId, at_ms: int) -> None:
        """Make an entry, or move it; durable on return."""
        self.settle(id, at_ms)
        await self._committer.wait_durable()

    def settle(self, id: ObjectId, at_ms: int | None) -> None:
        """Move an entry, or remove it; durable some time later."""
        if at_ms is None:
            self._committer.execute(alarm_table.REMOVE, (id.namespace, id.key))
        else:
            system = id.namespace in self._system()
            self._committer.execute(alarm_table.SET, (id.namespace, id.key, id.name, at_ms, system))
        self._changed.set()

    async def run(self) -> None:
        """Fire what is due, until it is closed."""
        while not self._closed:
            self._changed.clear()
            try:
                wait_ms = self._fire_due(self._ports.clock.now_ms())
            except PenstockError:
                wait_ms = _RETRY_MS  # it is being opened again, and says so itself
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _fire_due(self, now_ms: int) -> int:
        """Start what is due; gives the time until the next look, in milliseconds."""
        ahead_ms = now_ms - self._ports.clock.elapsed_ms()
        if ahead_ms < self._ahead_ms - _RETRY_MS:
            # The wall clock was set back, and what was put off by a second would wait for it to catch up.
            self._committer.execute(alarm_table.PUT_ON, (1 << 62,))
        self._ahead_ms = ahead_ms
        return min(self._fire_due_of(system, now_ms) for system in (True, False))

    def _fire_due_of(self, system: bool, now_ms: int) -> int:
        running = self._running[system]
        next_ms: int | None = self._committer.execute(alarm_table.NEXT, (system, now_ms)).get
        wait_ms = _SLEEP_MS_MAX if next_ms is None else min(_SLEEP_MS_MAX, next_ms - now_ms)
        if len(running) >= ALARMS_RUNNING_MAX:
            return wait_ms
        # Twice as many as can fire: others come behind those that must wait because they may end the process.
        most = 2 * ALARMS_RUNNING_MAX + len(running)
        rows: list[tuple[Any, ...]] = self._committer.execute(alarm_table.DUE, (system, now_ms, most)).fetchall()
        for namespace, key, name, life, lost in rows:
            id = ObjectId(namespace, name, key)
            if id in running:
                continue
            if life not in (0, self._life):
                lost += 1
            if lost and self._suspect is not None:
                continue
            running.add(id)
            if not system:
                # Who was lost twice is not fired at once by the next process.
                after_ms = now_ms + pause_after_loss_ms(lost)
                self._committer.execute(
                    alarm_table.BEGIN, (namespace, key, self._life, lost, after_ms if lost else 0)
                )
                if lost:
                    self._suspect = id
            self._tasks.create_task(self._fire_one(id, system, lost))
            if len(running) >= ALARMS_RUNNING_MAX:
                break
        return wait_ms

    async def _fire_one(self, id: ObjectId, system: bool, lost: int) -> None:
        settled = False
        try:
            if not system:
                await self._committer.wait_durable()
            settled = await self._fire(id, lost)
        except PenstockError as error:
            log.warning("alarm_not_fired", object=id.label, error=error.message)
        finally:
            self._running[system].discard(id)
            if id == self._suspect:
                self._suspect = None
            # If it cannot be written down: the mark is this process's own, and the index is opened anew.
            with contextlib.suppress(PenstockError):
                if not settled:
                    until_ms = self._ports.clock.now_ms() + _RETRY_MS
                    self._committer.execute(alarm_table.PUT_OFF, (id.namespace, id.key, until_ms))
                elif not system:
                    self._committer.execute(alarm_table.END, (id.namespace, id.key))
            self._changed.set()
