"""Turns: requests of several pipelines are stored by turns, so that a hot one cannot make a quiet one wait.

An executor has one event loop. What a request costs there, mostly the parsing of its body and a row, is paid in the
order of arrival, and behind a thousand requests of a hot pipeline that is a long time. So in each turn of the loop
a pipeline gets only so many requests done; the rest of its requests wait for the next turns in a queue of their
own, while those of others pass. Who is alone never waits.

(Deficit round robin by requests instead of bytes: a body is 5 MB at most, and bodies in memory have a budget of
their own, `inflight.py`.)
"""

from __future__ import annotations

import asyncio
from collections import deque

from penstock.base.clock import Clock
from penstock.base.limits import REQUESTS_PER_TURN_MAX, TURNS_WINDOW_MS


class Turns:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Requests done in this turn, by pipeline.
        self._done: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._turn_ends = False
        #: Pipelines seen in this window of time, and in the one before.
        self._seen: set[str] = set()
        self._seen_before: set[str] = set()
        self._window_ends_ms = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    async def take(self, pipeline: str) -> None:
        """Return when it is this pipeline's turn."""
        self._see(pipeline)
        if len(self._seen) == 1 and len(self._seen_before) <= 1:
            return
        queue = self._waiting.get(pipeline)
        done = self._done.get(pipeline, 0)
        self._end_turn_later()
        if queue is None and done < REQUESTS_PER_TURN_MAX:
            self._done[pipeline] = done + 1
            return
        if queue is None:
            queue = self._waiting[pipeline] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        await turn

    def _see(self, pipeline: str) -> None:
        now_ms = self._clock.elapsed_ms()
        if now_ms >= self._window_ends_ms:
            self._seen_before, self._seen = self._seen, set()
            self._window_ends_ms = now_ms + TURNS_WINDOW_MS
        self._seen.add(pipeline)

    def _end_turn_later(self) -> None:
        if not self._turn_ends:
            self._turn_ends = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """Begin the next turn with those who wait."""
        self._turn_ends = False
        self._done.clear()
        for pipeline, queue in list(self._waiting.items()):
            let_go = 0
            while queue and let_go < REQUESTS_PER_TURN_MAX:
                turn = queue.popleft()
                if not turn.done():  # else the client is gone
                    turn.set_result(None)
                    let_go += 1
            if queue:
                self._done[pipeline] = let_go
            else:
                del self._waiting[pipeline]
        if self._waiting:
            self._end_turn_later()
