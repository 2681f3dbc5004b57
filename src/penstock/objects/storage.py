"""`ctx.storage`: an object's storage, as its class sees it.

Reads and writes are synchronous, on the event loop. What is written between two turns of the loop commits
together (`committer.py`). An exception undoes nothing; `transaction_sync` does.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from penstock.base.errors import Invalid
from penstock.objects.kv import Kv
from penstock.objects.sql import Sql
from penstock.objects.system_storage import SystemStorage

T = TypeVar("T")


class ObjectStorage:
    """One object's tables, its values by key and its alarm. Nothing here leads around the sandbox of its SQL."""

    __slots__ = ("_has_alarm", "_system")

    def __init__(self, system: SystemStorage, *, has_alarm: bool = True) -> None:
        self._system = system
        #: Whether the class has a handler.
        self._has_alarm = has_alarm

    @property
    def sql(self) -> Sql:
        """The object's own tables."""
        return self._system.sql

    @property
    def kv(self) -> Kv:
        """Values by key."""
        return self._system.kv

    def transaction_sync(self, work: Callable[[], T]) -> T:
        """Call `work` and give its result; if it raises, what it wrote is undone (an alarm that it set too) and the
        error goes on. Nests: then only what the inner one wrote is undone. `work` must not be a coroutine function:
        a transaction ends before anything is awaited."""
        return self._system.transaction_sync(work)

    async def sync(self) -> None:
        """Return when everything written so far is durable. Raises why it never will be.

        Results, calls and `ctx.buckets` wait by themselves. What an object sends with a library of its own does
        not: await this before it."""
        await self._system.sync()

    def delete_all(self) -> None:
        """Delete all tables, keys and the alarm: all of them or, if it raises, none. What is written after it in
        the same step is kept.

        The object can be used on at once, but its constructor does not run again: tables must be made anew.
        `sql.database_size` goes down to next to nothing; the file keeps its size, and its room is used again.

        Raises `Invalid` within `transaction_sync`, and while an `sql` cursor has rows that were not read; they
        cannot be read any more then.
        """
        self._system.delete_all()

    def get_alarm(self) -> int | None:
        """When the alarm fires, milliseconds since the Unix epoch; None if none is set. While `alarm()` runs the
        alarm that it runs for is gone."""
        return self._system.get_alarm()

    def set_alarm(self, at: int | datetime) -> None:
        """Let `alarm()` be called at `at` (at once if that has passed), replacing the alarm there was.

        `at` is an int, milliseconds since the Unix epoch, or a datetime with a time zone. Raises `Invalid` for
        anything else, and if the class has no `alarm()`."""
        if not self._has_alarm:
            raise Invalid(
                "The class has no alarm(), so no alarm can be set; write: "
                "async def alarm(self, info: AlarmInfo) -> None."
            )
        self._system.set_alarm(at)

    def delete_alarm(self) -> None:
        """Let `alarm()` not be called. If it runs already, it is not called again for that."""
        self._system.delete_alarm()


def system_storage(storage: ObjectStorage) -> SystemStorage:
    """What is behind `ctx.storage`, for classes that are part of Penstock."""
    return storage._system
