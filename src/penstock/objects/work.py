"""What an object has under way, so that all of it ends when the object breaks.

Whoever runs the object's code does so in a task of its own choosing (a caller's, the alarm index's). That task is
not the object's to end; so it is cancelled, and where the object's code began the cancellation is turned into the
reason for which the object broke, as `asyncio.timeout` turns its own into `TimeoutError`.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

from penstock.base.errors import PenstockError
from penstock.objects.durable_object import ObjectAborted

T = TypeVar("T")


def is_from_outside(error: BaseException) -> bool:
    """Whether an error came out of an object's code that is not of its making: somebody has cancelled the task that
    runs it, or closes it. All else is the code's own, whatever its kind: a SystemExit of `sys.exit()`, or the
    CancelledError of a task of its own that it has cancelled and awaits."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, GeneratorExit)


def is_abort(error: BaseException) -> bool:
    """Whether it is that of `ctx.abort`, perhaps out of a task group."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(ObjectAborted) is not None
    return isinstance(error, ObjectAborted)


class Work:
    """The running methods, handlers and background work of one activation."""

    def __init__(self) -> None:
        self._broken: PenstockError | None = None
        self._tasks: dict[object, asyncio.Task[Any]] = {}
        #: Tasks that were cancelled because the object broke and have not come to know yet.
        self._cancelled: dict[asyncio.Task[Any], None] = {}

    async def run(self, awaitable: Awaitable[T]) -> T:
        """Await the object's own code. Raises what it raises, or why the object broke meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        # By the awaitable: one task can be in the same object twice, through another object.
        self._tasks[awaitable] = task
        try:
            return await awaitable
        except asyncio.CancelledError:
            if task not in self._cancelled:
                raise
            del self._cancelled[task]
            if task.uncancel():
                raise  # somebody else has cancelled it too
            assert self._broken is not None
            raise self._broken from None
        finally:
            del self._tasks[awaitable]

    def break_with(self, error: PenstockError) -> None:
        """End all of it, except what runs at this moment: that ends by itself with its next step."""
        self._broken = error
        current = asyncio.current_task()
        # Each task once, and in order: a set would have none.
        for task in dict.fromkeys(self._tasks.values()):
            if task is not current:
                self._cancelled[task] = None
                task.cancel()


@types.coroutine
def resumed(coroutine: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """The rest of a coroutine that was started with `send(None)`, which gave what it waits for. So a method that
    waits for nothing, as most do, has run before anybody need know of it."""
    while True:
        try:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                waits_for = coroutine.throw(error)
            else:
                waits_for = coroutine.send(sent)
        except StopIteration as done:
            result: T = done.value
            return result
