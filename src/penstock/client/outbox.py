"""The thin shell around `Buffer`: sends in the background what was put."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from penstock.base.clock import Clock
from penstock.base.errors import Internal, Invalid, Unavailable
from penstock.base.limits import CLIENT_REQUESTS_MAX
from penstock.client.buffer import Batch, Buffer
from penstock.client.errors import SendError
from penstock.client.sender import Sender
from penstock.client.settings import ClientSettings

#: Starts a task in the group of the client, from the loop.
Start = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Outbox:
    """One pipeline's records that were put.

    Everything happens on one event loop, but for `offer`, which any thread may call: it is what makes `put` of the
    synchronous client a few microseconds. The lock is held for these only, never across an await.
    """

    def __init__(self, sender: Sender, settings: ClientSettings, clock: Clock, start: Start) -> None:
        self._sender = sender
        self._clock = clock
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._buffer = Buffer(settings)
        #: What went wrong in the background and nobody was told yet. While there is something, nothing more gets
        #: in, so that what failed is bounded like what waits.
        self._failures: list[SendError] = []
        self._closed = False
        self._stopped = False
        self._dispatcher: asyncio.Task[None] | None = None
        self._sending: dict[asyncio.Task[None], Batch] = {}
        self._slots = asyncio.Semaphore(CLIENT_REQUESTS_MAX)
        #: Set when the dispatcher should look into the buffer.
        self._news = asyncio.Event()
        #: Set, and replaced, when something was settled.
        self._change = asyncio.Event()

    def offer(self, record: bytes) -> bool:
        """Take the record if there is room. Raises as `put`. From any thread; never blocks."""
        with self._lock:
            if self._failures:
                raise self._collected(record)
            if self._closed:
                raise Invalid("The client is closed; the record was not taken.")
            if not self._buffer.has_room(record):
                return False
            if self._buffer.add(record, self._clock.elapsed_ms()):
                # Under the lock, so that `close` comes later, and with it the end of the loop.
                self._loop.call_soon_threadsafe(self._wake)
        return True

    async def put(self, record: bytes) -> None:
        """Take the record, when there is room. Raises `SendError` for what went wrong before, and does not take it
        then: it is the last of the error's records."""
        if self._is_full():
            # A loop that puts without ever waiting for anything must let batches leave.
            await self._clock.sleep_ms(0)
        while True:
            change = self._change
            if self.offer(record):
                return
            await change.wait()

    async def flush(self) -> None:
        """Until all that was put before is stored. Raises `SendError` for what was not."""
        with self._lock:
            below = self._buffer.make_due()
        if self._settled_below() < below:
            self._wake()
        while self._settled_below() < below:
            await self._change.wait()
        self._raise_failures()

    def close(self) -> None:
        """No more is taken."""
        with self._lock:
            self._closed = True

    async def drain(self) -> None:
        """Flush, then stop sending; cut short by `give_up`. Raises `SendError` for what was not stored."""
        try:
            await self.flush()
        finally:
            await self._stop()

    async def give_up(self, message: str) -> None:
        """What is not stored yet will not be: `drain` raises it."""
        await self._stop()
        with self._lock:
            unsent = self._buffer.take_all()
            if unsent:
                self._failures.append(SendError(Unavailable(message), unsent, pipeline=self._sender.name))
        self._changed()

    async def _stop(self) -> None:
        self._stopped = True
        tasks = [*self._sending, *([self._dispatcher] if self._dispatcher else [])]
        self._dispatcher = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sending.clear()

    def _wake(self) -> None:
        if self._dispatcher is None and not self._stopped:
            self._dispatcher = self._start(self._dispatch())
        self._news.set()

    async def _dispatch(self) -> None:
        while True:
            await self._slots.acquire()
            batch = await self._next_batch()
            task = self._start(self._deliver(batch))
            self._sending[task] = batch
            task.add_done_callback(self._delivered)

    async def _next_batch(self) -> Batch:
        while True:
            self._news.clear()
            with self._lock:
                wait_ms = self._buffer.wait_ms(self._clock.elapsed_ms())
                if wait_ms == 0:
                    return self._buffer.take()
            if wait_ms is None:
                await self._news.wait()
            else:
                await self._news_within(wait_ms)

    async def _news_within(self, ms: int) -> None:
        alarm = self._start(self._ring(ms))
        try:
            await self._news.wait()
        finally:
            alarm.cancel()

    async def _ring(self, ms: int) -> None:
        await self._clock.sleep_ms(ms)
        self._news.set()

    async def _deliver(self, batch: Batch) -> None:
        failure: SendError | None = None
        try:
            await self._sender.send(batch.records)
        except SendError as error:
            failure = error
        except Exception as error:  # noqa: BLE001
            # A bug of ours must not cost the records; whoever puts or flushes next gets to see it.
            failure = SendError(Internal(repr(error)), batch.records, pipeline=self._sender.name)
            failure.__cause__ = error
        self._settle(batch, failure)

    def _settle(self, batch: Batch, failure: SendError | None) -> None:
        with self._lock:
            self._buffer.settle(batch)
            if failure is not None:
                self._failures.append(failure)
        self._changed()

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._sending.pop(task, None)
        self._slots.release()

    def _changed(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    def _is_full(self) -> bool:
        with self._lock:
            return self._buffer.is_full()

    def _settled_below(self) -> int:
        with self._lock:
            return self._buffer.settled_below

    def _raise_failures(self) -> None:
        with self._lock:
            if self._failures:
                raise self._collected()

    def _collected(self, *more: bytes) -> SendError:
        """All failures as one, which are told by that."""
        failures, self._failures = self._failures, []
        unsent = [record for failure in failures for record in failure.records]
        collected = SendError(failures[0].reason, [*unsent, *more], pipeline=self._sender.name)
        collected.__cause__ = failures[0]
        return collected
