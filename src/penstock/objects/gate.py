"""The two gates of an object.

The **output gate** keeps the promise "no reply before its write is durable". Each commit of an object has a
position, counted from its activation. Whatever leaves the object (a reply, an error, a call to another object,
an upload) first waits until the relay has reported the position of everything that the object wrote before.
It does not matter whether the departing message depends on those writes: that could only be known by
tracing every read. (workerd: io/io-gate.h, OutputGate.)

The **input gate** keeps new calls out while the object must not be entered: during start-up,
`block_concurrency_while`, and the moment in which its log starts a new epoch. Calls wait in the order in which
they came.

Neither does any I/O.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.base.errors import PenstockError


class OutputGate:
    """Holds what leaves until the writes before it are durable."""

    def __init__(self) -> None:
        self._durable = 0
        self._held: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._broken: PenstockError | None = None
        self._last = 0

    @property
    def durable(self) -> int:
        """Position up to which everything is durable."""
        return self._durable

    def hold(self, position: int) -> asyncio.Future[None] | None:
        """A future that is done when `position` is durable; None if that is so already.

        This is the function that holds a reply back. Positions must be asked for in rising order. The future
        raises when the object broke before `position` was committed: what waited on it must never leave.
        """
        if self._broken is not None and position > self._last:
            raise self._broken
        if position <= self._durable:
            return None
        # One future per caller: a shared one would be cancelled for all when one of them is.
        held = asyncio.get_running_loop().create_future()
        self._held.append((position, held))
        return held

    def open_to(self, position: int) -> None:
        """Everything up to `position` is durable: let go what waited for it."""
        assert position >= self._durable, (position, self._durable)
        self._durable = position
        while self._held and self._held[0][0] <= position:
            _, held = self._held.popleft()
            if not held.done():
                held.set_result(None)

    def nothing_written(self, position: int) -> None:
        """The transaction that was to become commit `position` + 1 wrote nothing: what waited for it waits for
        `position` instead."""
        self._held = deque((min(p, position), held) for p, held in self._held)
        self.open_to(self._durable)

    def break_with(self, error: PenstockError, last: int) -> None:
        """Nothing is committed any more after position `last`: whatever is held for more, now or later, fails. What
        waits for `last` or less goes on waiting: those commits are in the log and with the relay, so they have
        happened, and to say that they failed would be wrong."""
        self._broken, self._last = error, last
        while self._held and self._held[-1][0] > last:
            _, held = self._held.pop()
            if not held.done():
                held.set_exception(error)


class InputGate:
    """Lets calls in, one after the other in the order in which they came, while nobody holds it shut."""

    def __init__(self) -> None:
        self._holds = 0
        #: Who waits, in order; a place is kept until its owner is in, however often the gate shuts again.
        self._queue: dict[object, asyncio.Future[None]] = {}

    @property
    def is_open(self) -> bool:
        # While some that waited have not run yet, a newcomer must not overtake them.
        return not self._holds and not self._queue

    @property
    def waiting(self) -> int:
        """How many wait to be let in."""
        return len(self._queue)

    async def enter(self) -> None:
        """Wait for the gate to be open. Check `is_open` first: it saves the await."""
        place, loop = object(), asyncio.get_running_loop()
        try:
            while True:
                turn = self._queue[place] = loop.create_future()
                if not self._holds:
                    # Not at once: a task does not stop for a future that is done, and would overtake.
                    loop.call_soon(let_go, turn)
                await turn
                if not self._holds:
                    return
        finally:
            del self._queue[place]

    def shut(self) -> None:
        """Keep new calls out until `unshut` was called as often as this."""
        self._holds += 1

    def unshut(self) -> None:
        self._holds -= 1
        if not self._holds:
            for turn in self._queue.values():
                let_go(turn)

    @contextmanager
    def held_shut(self) -> Iterator[None]:
        """Keep new calls out for the length of a `with` block."""
        self.shut()
        try:
            yield
        finally:
            self.unshut()


def let_go(held: asyncio.Future[None]) -> None:
    """Let somebody go on who has not given up waiting."""
    if not held.done():
        held.set_result(None)
