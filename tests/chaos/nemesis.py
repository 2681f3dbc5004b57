"""Kills processes under load and measures how long it takes until they serve again.

**How recovery is measured.** From the kill (just before the signal is sent) to two moments:

*first*  a request that was made after the kill, over a new connection, was answered 200. This is what a client
         notices. While another executor lives it hardly takes longer than a request.
*all*    every executor has answered 200 since the kill. A killed one has started, opened its databases, taken a
         connection and made a record durable. (Metrics tell: their counters start at 0 with a process.)

Both have `RECOVERY_S_MAX` on the wall clock. Only what we spent meanwhile waiting for processors that others had
comes on top, as far as the kernel can tell (`processors.py`); on a machine of our own that is nothing. The probe
asks again a few milliseconds after each answer, and the load goes on all the time, except that a client waits 50 ms
after a request that failed.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from .client import Client
from .plan import Kind, Moment, Strike
from .processors import Processors
from .progress import Progress
from .server import ServerTree

RECOVERY_S_MAX = 2.0
#: When it is given up, and the run with it.
RECOVERY_DEADLINE_S = 30.0
MOMENT_WAIT_S_MAX = 3.0

_RECORDS_OF_EXECUTOR = re.compile(r'^penstock_ingest_records_total\{executor="\d+"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Kill:
    strike: Strike
    at: datetime
    #: None if the next kill came before.
    first_s: float | None = None
    all_s: float | None = None
    waited_for_others_s: float = 0.0

    @property
    def limit_s(self) -> float:
        return RECOVERY_S_MAX + self.waited_for_others_s

    @property
    def too_slow(self) -> bool:
        return self.all_s is not None and self.all_s > self.limit_s

    def __str__(self) -> str:
        what = f"{self.at:%H:%M:%S.%f} {self.strike.kind.value}, {self.strike.moment.value}"
        if self.first_s is None or self.all_s is None:
            return f"{what}: killed again after {self.strike.cut_short_s:.3f} s"
        return (
            f"{what}: {self.first_s:.3f} s to the first 200, {self.all_s:.3f} s until all served "
            f"(at most {self.limit_s:.3f} s)"
        )


class Nemesis:
    """`waits` returns, within about a millisecond, when a moment has come, or after as many seconds as it is given.
    It blocks."""

    def __init__(self, server: ServerTree, waits: Mapping[Moment, Callable[[float], None]], probe: Client) -> None:
        self._server = server
        self._waits = waits
        self._probe = probe
        self._processors: Processors
        #: Executors whose supervisor was killed.
        self._orphans: set[int] = set()
        self.kills: list[Kill] = []
        self.progress = Progress()
        self.violations: list[str] = []

    async def run(self, strikes: list[Strike]) -> None:
        """Strike, one after the other; ends early when the service does not come back."""
        for strike in strikes:
            await asyncio.sleep(strike.pause_s)
            # In a thread, with the load going on: if the loop stopped for it, the server would be idle by then.
            killed_at = await asyncio.to_thread(self._kill, strike)
            kill = Kill(strike, datetime.now(UTC))
            if strike.cut_short_s is not None:
                self._add(kill)
                await self._keep_started_until(killed_at + strike.cut_short_s)
                continue
            recovery = await self._recovery(killed_at)
            if recovery is None:
                self._add(kill)
                self.violations.append(f"not all executors served {RECOVERY_DEADLINE_S:.0f} s after a kill: {kill}")
                return
            waited_s = self._processors.waited_for_others_s(self._server.tree())
            self._add(Kill(strike, kill.at, *recovery, waited_s))
            self._check_orphans()

    def _add(self, kill: Kill) -> None:
        self.kills.append(kill)
        self.progress.advance()

    def _kill(self, strike: Strike) -> float:
        """Gives the time of the kill. Blocks."""
        self._keep_started()
        tree = self._server.tree()
        if strike.moment in self._waits:
            self._waits[strike.moment](MOMENT_WAIT_S_MAX)
        time.sleep(strike.delay_s)
        self._processors = Processors(tree)
        killed_at = time.monotonic()
        self._server.kill(strike, tree)
        if strike.kind is Kind.SUPERVISOR:
            self._orphans.update(tree[1:])
        if self._server.ended:
            self._server.start()
        return killed_at

    async def _recovery(self, since: float) -> tuple[float, float] | None:
        """Seconds until the first 200, and until all executors served; None if they do not."""
        first_s: float | None = None
        while (now := time.monotonic()) - since < RECOVERY_DEADLINE_S:
            if await self._probe.send_afresh(1):
                now = time.monotonic()
                first_s = first_s or now - since
                if await self._executors_serving() == self._server.executors_wanted:
                    return first_s, time.monotonic() - since
            self._keep_started()
            await asyncio.sleep(0.005)
        return None

    async def _executors_serving(self) -> int:
        """How many executors have acknowledged a record in their lives."""
        return sum(float(records) > 0 for records in _RECORDS_OF_EXECUTOR.findall(await self._probe.metrics()))

    def _check_orphans(self) -> None:
        """A new server serves, so it has the directory's lock, so the executors of the one before are gone."""
        if left := self._orphans & set(self._server.left_over()):
            self.violations.append(f"executors outlived their supervisor: {left}")
        self._orphans.clear()

    async def _keep_started_until(self, ends_at: float) -> None:
        while time.monotonic() < ends_at:
            self._keep_started()
            await asyncio.sleep(0.005)

    def _keep_started(self) -> None:
        """What an init system does. But no supervisor may end by itself: neither is an executor's death a reason,
        nor that executors of the one before still hold port and data directory for a moment."""
        if self._server.ended:
            self.violations.append(f"the supervisor ended by itself, with status {self._server.exit_status}")
            self._server.start()
