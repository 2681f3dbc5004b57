"""From a written row to a durable one: the commit turn.

The first statement of a step opens a transaction and asks for a commit on the next turn of the loop. Whatever
is written until then joins it, so one transaction serves all calls of a turn. While the relay has a commit of this
object the turn waits, as the next commit would: so one transaction serves all calls of a round of the relay too,
and pages that they all change are written to the log once. Nothing here blocks: the commit goes into the page cache
and to the relay, and the output gate opens when the relay says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import apsw

from penstock.base.errors import Internal, PenstockError
from penstock.objects.gate import OutputGate, let_go
from penstock.storage.database import Database, SqlValue
from penstock.storage.relay import Commit, Relay

#: What must be done before a transaction commits.
FirstOfAll = Callable[[], Awaitable[None]]


class Committer:
    """A database with its implicit transaction, its lane to the relay and its output gate.

    `before_commit` may give something to do before a transaction commits (more may be written meanwhile, and
    joins it; it is asked again until it gives None). `on_commit` is told of the end of each transaction, with None
    if it changed nothing. `on_broken` is told, once, that nothing more can be written: a transaction failed, so
    what is in memory is no longer what is on the disk, and whoever waits at the gate for that transaction gets the
    error.
    """

    def __init__(
        self,
        database: Database,
        relay: Relay,
        key: str,
        tasks: asyncio.TaskGroup,
        *,
        on_broken: Callable[[PenstockError], None],
        before_commit: Callable[[], FirstOfAll | None] = lambda: None,
        on_commit: Callable[[Commit | None], None] = lambda _commit: None,
    ) -> None:
        self.database = database
        self.broken: PenstockError | None = None
        self._gate = OutputGate()
        self._lane = relay.open_lane(key, self._on_durable)
        self._tasks = tasks
        self._before_commit = before_commit
        self._on_commit = on_commit
        self._on_broken = on_broken
        self._commit_due = False
        #: The commit turn came while the relay had a commit of ours: it comes again when that is durable.
        self._commit_waits = False

    def execute(self, sql: str, parameters: tuple[SqlValue, ...] = (), restricted: bool = False) -> apsw.Cursor:
        """Run a statement in the current transaction, opening one where there is none. `restricted`: it is not ours
        (`Database.execute_restricted`)."""
        if self.broken is not None:
            raise self.broken
        try:
            if not self._commit_due:
                self._begin()
            if restricted:
                return self.database.execute_restricted(sql, parameters)
            return self.database.execute(sql, parameters)
        except PenstockError as error:
            # SQLite may have rolled back the whole transaction, with the writes of others that wait at the gate.
            self.break_with(error)
            raise

    def execute_many(self, sql: str, rows: Sequence[tuple[SqlValue, ...]]) -> None:
        """Run a statement of ours once for each of `rows`, as `execute` does."""
        if self.broken is not None:
            raise self.broken
        try:
            if not self._commit_due:
                self._begin()
            self.database.execute_many(sql, rows)
        except PenstockError as error:
            self.break_with(error)
            raise

    def _begin(self) -> None:
        self.database.begin()
        self._commit_due = True
        asyncio.get_running_loop().call_soon(self._commit_turn)

    @property
    def lost_transaction(self) -> bool:
        """SQLite has rolled back the open transaction by itself."""
        return self._commit_due and self.broken is None and not self.database.in_transaction

    # -- the gate -----------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The commit that will hold everything written so far."""
        if self._commit_due and self.broken is None and self.database.has_uncommitted_writes:
            return self.database.position + 1
        return self.database.position

    @property
    def is_settled(self) -> bool:
        """Nothing is open and everything is durable."""
        return not self._commit_due and self._gate.durable == self.database.position

    def is_durable(self, position: int) -> bool:
        return position <= self._gate.durable

    def hold(self) -> asyncio.Future[None] | None:
        """What a departing message must await: done when everything written so far is durable. None if that is
        so already. Raises if the writes failed."""
        if self.broken is not None:
            raise self.broken
        return self._gate.hold(self.position)

    async def wait_durable(self) -> None:
        held = self.hold()
        if held is not None:
            await held

    async def wait_turn(self) -> None:
        """As `wait_durable`, for what must leave in order. What is held back by nothing waits all the same until
        those have run whom the gate has let go already: it would overtake them."""
        held = self.hold()
        if held is None:
            loop = asyncio.get_running_loop()
            held = loop.create_future()
            loop.call_soon(let_go, held)
        await held

    async def wait_shipped(self) -> None:
        """Return when everything that was committed is durable, broken or not: the relay has no more use for the
        log then. (Never, if the relay failed; the process ends then.)"""
        held = self._gate.hold(self.database.position)
        if held is not None:
            await held

    # -- the turn -----------------------------------------------------------------------------------------

    def _commit_turn(self) -> None:
        if self.broken is not None:
            return
        if self._gate.durable < self.database.position and self.database.has_uncommitted_writes:
            self._commit_waits = True
            return
        try:
            first = self._before_commit()
        except PenstockError as error:
            self.break_with(error)
            return
        if first is None:
            self._commit()
        else:
            commit = self._commit_after(first)
            try:
                self._tasks.create_task(commit)
            except RuntimeError:
                # The executor ends and takes on no more tasks: as in a crash, nothing commits.
                commit.close()

    async def _commit_after(self, first: FirstOfAll | None) -> None:
        try:
            while first is not None:
                await first()
                if self.broken is not None:
                    return
                first = self._before_commit()
        except PenstockError as error:
            self.break_with(error)
            return
        self._commit()

    def _commit(self) -> None:
        self._commit_due = False
        try:
            commit = self.database.commit()
        except PenstockError as error:
            self.break_with(error)
            return
        except Exception as error:  # noqa: BLE001 - this may run inside the relay, which others depend on
            self.break_with(Internal(f"The commit failed: {error!r}"))
            return
        if commit is None:
            self._gate.nothing_written(self.database.position)
        else:
            self._lane.ship(commit)
        self._on_commit(commit)

    def _on_durable(self, position: int) -> None:
        self._gate.open_to(position)
        if self._commit_waits and position == self.database.position:
            self._commit_waits = False
            self._commit_turn()

    def break_with(self, error: PenstockError) -> None:
        """Stop: nothing more is committed, and whoever waits for that or writes from now on gets `error`."""
        if self.broken is not None:
            return
        self.broken = error
        self._gate.break_with(error, self.database.position)
        self._on_broken(error)
