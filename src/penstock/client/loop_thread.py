"""An event loop on a thread, which keeps one `AsyncClient` open."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from penstock.base.errors import Unavailable
from penstock.client.asynchronous import AsyncClient

T = TypeVar("T")


class LoopThread:
    """Starts at once. A daemon, since it must not keep a program from ending that forgot to close its client."""

    def __init__(self, client: AsyncClient) -> None:
        #: The process that it is in: a forked one has none of the threads of its parent.
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._ended = False
        self._stop = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=self._live, args=(client, started), name="penstock-client", daemon=True
        )
        self._thread.start()
        self._loop = started.result()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the coroutine, run on the loop. Blocks; Ctrl-C cancels it."""
        with self._lock:
            if self._ended:
                work.close()
                raise _closed()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()
            raise

    def stop(self, timeout_ms: int) -> None:
        """End the client's block and the thread, which is waited for."""
        with self._lock:
            if not self._ended:
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout_ms / 1000)

    def _live(self, client: AsyncClient, started: Future[asyncio.AbstractEventLoop]) -> None:
        # Not `asyncio.run`: it ends by waiting for the threads that resolve names, in one more thread, and while
        # the interpreter exits none can be started.
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._hold(client, started))
        except BaseException as error:
            if started.done():
                raise  # a bug of ours: Python prints it
            started.set_exception(error)
        finally:
            with self._lock:
                self._ended = True
            loop.run_until_complete(_cancel_others())
            loop.close()

    async def _hold(self, client: AsyncClient, started: Future[asyncio.AbstractEventLoop]) -> None:
        async with client:
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()


async def _cancel_others() -> None:
    """Callers that still wait get to know."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _closed() -> Unavailable:
    return Unavailable("The client was closed before it was done.")
