"""The alarm of an object in memory: runs the handler, keeps the index in step. The decisions are in `alarm.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from penstock.base.errors import PenstockError, Unavailable
from penstock.objects.alarm import (
    Alarm,
    after_lost_tries,
    is_counted,
    must_index_before_commit,
    on_fired,
    on_handler_failed,
)
from penstock.objects.committer import Committer, FirstOfAll
from penstock.objects.durable_object import AlarmInfo
from penstock.objects.identity import ObjectId
from penstock.objects.system_storage import SystemStorage
from penstock.objects.work import is_from_outside
from penstock.storage.relay import Commit

if TYPE_CHECKING:
    from penstock.objects.runtime import Runtime

log = structlog.get_logger("penstock.objects")


@dataclass(frozen=True, slots=True)
class AbortedAlarm:
    """An alarm whose handler was ended by `ctx.abort`: what that means for it is written by the next activation."""

    alarm: Alarm
    retry: bool


class ObjectAlarm:
    """The alarm of one activation.

    `before_commit` and `on_commit` are the committer's. `failure` gives what the caller gets for what the handler
    raised when the object broke by it.
    """

    def __init__(
        self,
        runtime: Runtime,
        id: ObjectId,
        storage: SystemStorage,
        committer: Committer,
        failure: Callable[[BaseException, str], PenstockError],
    ) -> None:
        #: Goes into the index; to be given anew when the object's name is known.
        self.id = id
        self._runtime = runtime
        self._ports = runtime.ports
        self._storage = storage
        self._committer = committer
        self._failure = failure
        #: The alarm that `alarm()` runs for.
        self._firing: Alarm | None = None
        #: Time of this object's entry in the alarm index, as far as it is known to be durable; not known at first.
        self._indexed_ms: int | None = None
        self._index_is_known = False
        #: The last commit that changed the alarm.
        self._position = 0

    # -- firing -------------------------------------------------------------------------------------------

    async def fire(self, handler: Callable[[AlarmInfo], Awaitable[None]], lost: int) -> bool:
        """The index entry is due: run the handler if the committed alarm is due too. As `Activation.fire_alarm`."""
        committed = self._storage.read_alarm()
        aborted = self._runtime.aborted_alarms.pop(self.id.address, None)
        if committed is not None and on_fired(committed, self._ports.clock.now_ms()):
            alarm = after_lost_tries(committed, lost)
            if alarm.failed:
                self._give_up(alarm)
            elif aborted is not None and aborted.alarm == committed:
                self._storage.write_alarm(self._after_failure(alarm) if aborted.retry else None)
            else:
                await self._run(committed, alarm, handler)
        return await self._settle()

    def _give_up(self, alarm: Alarm) -> None:
        error = Unavailable(f"The process has ended {alarm.retries} times while alarm() ran.")
        log.error("alarm_failed", object=self.id.label, retries=alarm.retries, error=error.message)
        self._runtime.note_failure(self.id, error)
        self._runtime.statistics.alarms_given_up += 1
        self._storage.write_alarm(alarm)

    async def _run(self, committed: Alarm, alarm: Alarm, handler: Callable[[AlarmInfo], Awaitable[None]]) -> None:
        storage = self._storage
        storage.alarm_hidden = True
        self._firing = committed
        try:
            await handler(AlarmInfo(alarm.retries))
            if storage.alarm_hidden:  # unless the handler set another
                storage.write_alarm(None)
        except BaseException as error:
            if is_from_outside(error):
                raise
            failure = self._failure(error, "alarm")
            if self._committer.broken is not None:
                raise failure from error
            log.error("alarm_failed", object=self.id.label, retries=alarm.retries, error=str(error), exc_info=error)
            self._runtime.note_failure(self.id, error)
            after = self._after_failure(alarm, counted=is_counted(error))
            if storage.alarm_hidden:  # unless the handler set another, which replaces the retries
                storage.write_alarm(after)
        finally:
            storage.alarm_hidden = False
            self._firing = None

    def note_abort(self, *, retry: bool) -> None:
        """`ctx.abort` is about to break the object. If `alarm()` is running it has failed by this."""
        if self._firing is not None and self._committer.broken is None:
            self._runtime.aborted_alarms[self.id.address] = AbortedAlarm(self._firing, retry)

    def _after_failure(self, alarm: Alarm, *, counted: bool = True) -> Alarm:
        after = on_handler_failed(alarm, self._ports.clock.now_ms(), self._ports.rng, counted=counted)
        self._runtime.statistics.alarm_failures += 1
        self._runtime.statistics.alarms_given_up += after.failed
        return after

    # -- the index ----------------------------------------------------------------------------------------

    def before_commit(self) -> FirstOfAll | None:
        """An alarm that moved earlier is written to the index, durably, before its transaction commits."""
        if not self._storage.alarm_touched:
            return None
        if not self._index_is_known:
            # Not when the object starts: many have no alarm, and the index may be broken for a while.
            self._indexed_ms = self._runtime.alarms.indexed_ms(self.id)
            self._index_is_known = True
        alarm = self._storage.read_alarm()
        if not must_index_before_commit(alarm, self._indexed_ms):
            return None
        assert alarm is not None
        return partial(self._index, alarm.at_ms)

    async def _index(self, at_ms: int) -> None:
        await self._runtime.alarms.schedule(self.id, at_ms)
        self._know(at_ms)

    def _know(self, at_ms: int | None) -> None:
        self._indexed_ms = at_ms
        self._index_is_known = True

    def on_commit(self, commit: Commit | None) -> None:
        if self._storage.alarm_touched:
            self._storage.alarm_touched = False
            self._runtime.aborted_alarms.pop(self.id.address, None)  # it is another alarm now
            if commit is not None:  # else the alarm was set to what it was
                self._position = commit.position
            self._runtime.tasks.create_task(self._settle())

    async def _settle(self) -> bool:
        """Let the index follow the committed alarm, once that is durable; False if a newer one is on its way, which
        does the same when it is there. An entry that stays early does no harm, so nothing here is retried."""
        try:
            await self._committer.wait_durable()
            if self._storage.alarm_touched or not self._committer.is_durable(self._position):
                return False
            alarm = self._storage.read_alarm()
            at_ms = alarm.at_ms if alarm is not None and not alarm.failed else None
            self._runtime.alarms.settle(self.id, at_ms)
        except PenstockError as error:
            log.debug("alarm_not_settled", object=self.id.label, error=error.message)
            return False
        self._know(at_ms)
        return True
