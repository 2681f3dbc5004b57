"""One object in memory, from its first call to its eviction.

The way of a call: through the input gate; the method runs, reading and writing synchronously; on the next turn
of the loop the transaction commits and is shipped to the relay; the reply, or the error, waits at the output
gate until the relay has reported that commit durable.

If a commit fails, what is in memory no longer matches what is on disk and the callers that wait for that commit
must never hear of it: what is held for it fails, the object is discarded, and the next call starts it again from
its log. Of `ctx.abort` the same is true; and in both cases all that is under way in the object ends.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import structlog

from penstock.base.errors import Fenced, Internal, ObjectFailed, Overloaded, PenstockError, Unavailable
from penstock.base.limits import (
    ALARM_MS_MAX,
    BLOCK_CONCURRENCY_MS_MAX,
    CALLS_WAITING_MAX,
    WAIT_UNTIL_MAX,
    WAIT_UNTIL_MS_MAX,
)
from penstock.objects.buckets import GatedBuckets
from penstock.objects.committer import Committer
from penstock.objects.durable_object import AlarmInfo, Context, DurableObject, ObjectAborted
from penstock.objects.gate import InputGate
from penstock.objects.identity import ObjectId
from penstock.objects.inscription import note_identity
from penstock.objects.misuse import is_unmeant
from penstock.objects.object_alarm import ObjectAlarm
from penstock.objects.object_stream import ObjectStream
from penstock.objects.remote import IMMUTABLE, passed_on
from penstock.objects.storage import ObjectStorage
from penstock.objects.system_storage import SystemStorage
from penstock.objects.work import Work, is_abort, is_from_outside, resumed
from penstock.storage.database import Database
from penstock.storage.relay import Commit

if TYPE_CHECKING:
    from penstock.objects.runtime import Runtime

T = TypeVar("T")

log = structlog.get_logger("penstock.objects")


class Phase(enum.Enum):
    STARTING = "starting"
    ACTIVE = "active"
    #: Calls that wait at the input gate are for the next activation.
    ENDING = "ending"


class Activation:
    """An active object. Made by the runtime, which keeps at most one per id.

    `gate` is an input gate of its own, or that of the activation before it, in which calls wait for this one.
    """

    def __init__(self, runtime: Runtime, id: ObjectId, path: str, gate: InputGate) -> None:
        self.id = id
        self.phase = Phase.STARTING
        self.gate = gate
        #: Why calls that waited are refused: the object did not start, or not to the end.
        self.refusal: PenstockError | None = None
        #: Whether calls came when it was ending already: they are for the next activation, whatever became of this.
        self.awaits_next = False
        # The loop's own time, since it is asked for with each call: a clock takes several times as long.
        self._loop_time = asyncio.get_running_loop().time
        self.last_used_s = self._loop_time()
        self.ended = asyncio.Event()
        self._runtime = runtime
        self._ports = runtime.ports
        self._path = path
        self._started = asyncio.Event()
        self._running = 0
        self._background = 0
        self._work = Work()
        self._checkpointing = False
        #: Held by whatever works on the database beside the loop.
        self._beside = asyncio.Lock()
        self._database: Database | None = None
        self._committer: Committer
        self._storage: SystemStorage
        self._alarm: ObjectAlarm
        self._object: DurableObject[Any]
        gate.shut()  # until it has started

    # -- start and end ------------------------------------------------------------------------------------

    async def start(self, build: Callable[[Context], DurableObject[Any]]) -> None:
        """Open the database and construct the object, then let calls in. What prevents it is what those who wait
        get; the next call tries again."""
        try:
            open_database = partial(Database.open, self._ports.disk, self._path, defer_epoch=True)
            self._database = await self._ports.offload.run("database", open_database)
            self._committer = Committer(
                self._database,
                self._ports.relay,
                self.id.key,
                self._runtime.tasks,
                before_commit=lambda: self._alarm.before_commit(),
                on_commit=self._on_commit,
                on_broken=self._on_broken,
            )
            self._check_still_starting()
            self._storage = SystemStorage(self._committer)
            self._alarm = ObjectAlarm(
                self._runtime, self.id, self._storage, self._committer, self._as_penstock_error
            )
            self._storage.create_tables()
            self.id = self._alarm.id = note_identity(self._storage.execute, self.id)
            try:
                self._object = build(self._context())
            except BaseException as error:
                if is_from_outside(error):
                    raise
                raise self._as_penstock_error(error, "start") from error
            await self._committer.wait_durable()
            self._check_still_starting()
            self.phase = Phase.ACTIVE
        except Exception as error:
            self.refusal = self.refusal or (error if isinstance(error, PenstockError) else Internal(repr(error)))
            self.refusal.breaks_stub = True
            cause = error.__cause__ or error
            if is_unmeant(cause):
                log.error("object_not_started", object=self.id.label, error=self.refusal.message, exc_info=cause)
            else:
                log.warning("object_not_started", object=self.id.label, error=self.refusal.message)
            if self.phase is Phase.STARTING:  # else it was closed meanwhile
                self._runtime.note_failure(self.id, cause)
            self._runtime.discard(self, self.refusal)
        self._started.set()
        self.gate.unshut()

    def _check_still_starting(self) -> None:
        if self.phase is not Phase.STARTING:
            raise _closed()

    def _context(self) -> Context:
        return Context(
            self.id,
            ObjectStorage(self._storage, has_alarm=self._runtime.has_alarm(self.id.namespace)),
            clock=self._ports.clock,
            rng=self._ports.rng,
            buckets=GatedBuckets(self._ports.buckets, self._ports.s3, self._committer.wait_durable),
            namespace=partial(
                self._runtime.namespace,
                before_call=self._committer.wait_turn,
                caller=self.id.namespace,
                lasting=False,
            ),
            host=self,
        )

    async def wait_started(self) -> None:
        """Return when its database is open, or could not be opened."""
        await self._started.wait()

    async def wait_shipped(self) -> None:
        """After `wait_started`: return when everything that was committed is durable, whatever became of the
        object."""
        if self._database is not None:
            await self._committer.wait_shipped()

    @property
    def is_idle(self) -> bool:
        return (
            self.phase is Phase.ACTIVE
            and not self._running
            and not self._background
            and not self._checkpointing
            and self.gate.is_open
            and self._committer.is_settled
        )

    def begin_end(self) -> bool:
        """Let no more calls in: they wait for the next activation. The caller then sees to `end`. False if that has
        been done before: somebody else sees to it."""
        if self.phase is Phase.ENDING:
            return False
        self.phase = Phase.ENDING
        self.gate.shut()
        return True

    def tell_discarded(self) -> None:
        """Let the object take back what it told others in memory of writes that may not last."""
        if hasattr(self, "_object"):  # else it broke while it started
            self._object._on_discard()

    async def end(self) -> None:
        """Copy the log back and close the database. Calls under way fail as they would in a crash. The gate stays
        shut; the runtime opens it."""
        try:
            if self._database is not None:
                self._committer.break_with(_closed())
            await self._started.wait()
            if self._database is not None:
                async with self._beside:
                    await self._committer.wait_shipped()
                    await self._ports.offload.run("database", self._database.close)
        except PenstockError as error:
            log.warning("object_not_closed_cleanly", object=self.id.label, error=error.message)
        self.ended.set()

    # -- calls --------------------------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        args: tuple[Any, ...],
        finish: Callable[[Any], Any],
        *,
        streams: bool = False,
        inside: InputGate | None = None,
    ) -> Any:
        """Run a method and give its result, once it may be seen. Raises `PenstockError`s only.

        `finish` makes of the result what is given to the caller, a copy or bytes. It runs in the step in which the
        method returns: while the result waits at the output gate the object goes on, and may change what it gave.
        `streams`: `finish` gives a stream, and an `ObjectStream` is given. `inside`: the gate that the call has
        passed already."""
        late = False
        if not self.gate.is_open and inside is not self.gate:
            if self.phase is Phase.ENDING:
                late = self.awaits_next = True
            if self.gate.waiting >= CALLS_WAITING_MAX:
                raise Overloaded(
                    f"{CALLS_WAITING_MAX} calls wait to enter {self.id.label}, which is the limit.", retry_after_s=1
                )
            await self.gate.enter()
        if self.phase is not Phase.ACTIVE:
            if self.refusal is not None and not late:
                raise self.refusal
            return await self._runtime.call_next(self, method, args, finish, streams=streams)
        self._running += 1
        try:
            result = getattr(self._object, method)(*args)
            cls = type(result)
            if cls is CoroutineType:
                try:
                    waits_for = result.send(None)
                except StopIteration as done:
                    result = done.value
                else:
                    result = await self._work.run(resumed(result, waits_for))
            elif cls not in IMMUTABLE and inspect.isawaitable(result):
                result = await self._work.run(result)
            result = finish(result)
            held = self._committer.hold()
            if held is not None:
                await held
            return self._stream(result, method) if streams else result
        except BaseException as error:
            if is_from_outside(error):
                raise
            raise await self._failure(error, method)
        finally:
            self._running -= 1
            self.last_used_s = self._loop_time()

    async def _failure(self, error: BaseException, method: str) -> PenstockError:
        """What the caller gets for what the object's code raised, once it may be seen. An error tells about the
        object's state as a result does, so it waits like one. Raises the reason if the object broke."""
        # Before it waits: its text may show what is in memory.
        failure = self._as_penstock_error(error, method)
        await self._committer.wait_durable()
        if is_unmeant(error):
            log.error("object_method_failed", object=self.id.label, method=method, exc_info=error)
            self._runtime.note_failure(self.id, error)
        return failure

    def _stream(self, source: AsyncIterator[bytes], method: str) -> ObjectStream:
        failure = partial(self._failure, method=method)
        return ObjectStream(source, self._committer, self._work, failure, self._kept())

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the object in memory for the length of a `with` block."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self.last_used_s = self._loop_time()

    # -- what the context asks for --------------------------------------------------------------------------

    def block_concurrency_while(self, work: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        self.gate.shut()
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                async with asyncio.timeout(BLOCK_CONCURRENCY_MS_MAX / 1000) as limit:
                    result = await self._work.run(work())
                if not outcome.done():
                    outcome.set_result(result)
            except BaseException as error:
                is_outside = is_from_outside(error)
                late = _too_late(BLOCK_CONCURRENCY_MS_MAX, "the object starts again")
                reason = late if limit.expired() else error
                if not is_outside and is_unmeant(reason):
                    log.error("block_concurrency_failed", object=self.id.label, error=str(reason), exc_info=reason)
                    self._runtime.note_failure(self.id, reason)
                # Who waits is refused, not passed on: the next activation may well fail in the same way.
                self.refusal = (
                    _closed() if is_outside else self._as_penstock_error(reason, "block_concurrency_while")
                )
                self._committer.break_with(self.refusal)
                if not outcome.done():
                    outcome.set_exception(self.refusal)
                    outcome.exception()  # a constructor does not ask for it
                if is_outside:
                    raise
            finally:
                self.gate.unshut()

        self._runtime.tasks.create_task(run())
        return outcome

    def wait_until(self, work: Awaitable[Any]) -> None:
        try:
            if self._committer.broken is not None:
                raise self._committer.broken
            if self._background >= WAIT_UNTIL_MAX:
                raise Overloaded(f"{self.id.label} has {WAIT_UNTIL_MAX} works in the background, the limit.")
        except PenstockError:
            if isinstance(work, CoroutineType):
                work.close()
            raise
        self._background += 1
        self._runtime.tasks.create_task(self._run_in_background(work))

    async def _run_in_background(self, work: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(WAIT_UNTIL_MS_MAX / 1000) as limit:
                await self._work.run(work)
        except BaseException as error:
            if is_from_outside(error):
                raise
            reason = _too_late(WAIT_UNTIL_MS_MAX, "it was ended") if limit.expired() else error
            failure = self._as_penstock_error(reason, "wait_until")
            log.error("object_background_failed", object=self.id.label, error=failure.message, exc_info=error)
        finally:
            self._background -= 1
            self.last_used_s = self._loop_time()

    def abort(self, reason: str, retry_alarm: bool) -> NoReturn:
        self._alarm.note_abort(retry=retry_alarm)
        self._break_by_hand(reason)
        raise ObjectAborted(reason)

    def _break_by_hand(self, reason: object) -> None:
        message = f"{self.id.label} was aborted: {reason}"
        self._committer.break_with(ObjectFailed(message, type_name=ObjectAborted.__name__))

    # -- commit -------------------------------------------------------------------------------------------

    def _on_commit(self, commit: Commit | None) -> None:
        self._alarm.on_commit(commit)
        if commit is not None and commit.offset_bytes > self._runtime.wal_bytes_max and not self._checkpointing:
            self._checkpointing = True
            self._runtime.tasks.create_task(self._start_epoch())

    def _on_broken(self, error: PenstockError) -> None:
        error.breaks_stub = True
        self._work.break_with(error)
        self._runtime.discard(self, error)

    async def _start_epoch(self) -> None:
        """Copy the log back, mostly while the object goes on writing; then keep calls out for the moment it takes
        to copy the rest, so that the log can start again from its first byte. (If an alarm handler wrote in that
        moment it cannot, and the next commit tries again.)"""
        assert self._database is not None
        checkpoint = self._database.checkpoint
        try:
            async with self._beside:
                if self.phase is not Phase.ACTIVE:
                    return
                await self._ports.offload.run("database", checkpoint)
                with self.gate.held_shut():
                    await self._committer.wait_durable()
                    await self._ports.offload.run("database", checkpoint)
        except Fenced as error:
            self._committer.break_with(error)
        except PenstockError as error:
            # The log only goes on growing; the next commit tries again.
            log.warning("checkpoint_failed", object=self.id.label, error=error.message)
        finally:
            self._checkpointing = False

    def _as_penstock_error(self, error: BaseException, doing: str) -> PenstockError:
        if is_abort(error) and self._committer.broken is None:
            self._break_by_hand(error)  # it was raised without `ctx.abort`
        if self._committer.broken is not None:  # by an abort, or by the disk; the rest follows from that
            return self._committer.broken
        if isinstance(error, PenstockError) and not is_unmeant(error):
            return passed_on(error)
        type_name = type(error).__name__
        return ObjectFailed(f"{self.id.label}.{doing} failed: {type_name}: {error}", type_name=type_name)

    # -- alarm --------------------------------------------------------------------------------------------

    async def fire_alarm(self, lost: int) -> bool:
        """An index entry of this object is due: run the handler if the committed alarm is due too. `lost`: how many
        tries before have ended with their process. Returns when
        the outcome is durable: True if the index follows it, False if that is left to a newer alarm which is on
        its way to the disk. Raises a `PenstockError` if the object could not be started or broke; the entry stays
        then, and fires again."""
        if not self.gate.is_open:
            await self.gate.enter()
        if self.phase is not Phase.ACTIVE:
            raise self.refusal or _closed()
        self._running += 1
        try:
            return await self._alarm.fire(self._run_alarm, lost)
        finally:
            self._running -= 1
            self.last_used_s = self._loop_time()

    async def _run_alarm(self, info: AlarmInfo) -> None:
        limit_s = None if self._runtime.is_internal(self.id.namespace) else ALARM_MS_MAX / 1000
        try:
            async with asyncio.timeout(limit_s) as deadline:
                await self._work.run(self._object.alarm(info))
        except TimeoutError as error:
            if deadline.expired():
                raise TimeoutError(f"alarm() took longer than {ALARM_MS_MAX // 60_000} minutes.") from error
            raise


def _too_late(ms: int, consequence: str) -> TimeoutError:
    return TimeoutError(f"it was not done after {ms // 1000} s; {consequence}")


def _closed() -> Unavailable:
    return Unavailable("The object was closed; call it again.", retry_after_s=1)
