"""Takes the S3 server away, for a while each time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.s3 import S3Server

from .plan import Absence, Outage
from .progress import Progress
from .server import Guard


class Outages:
    def __init__(self, server: S3Server, guard: Guard) -> None:
        self._server = server
        self._guard = guard
        #: Seconds until it stored again.
        self.lasted: list[tuple[Outage, float]] = []

    async def run(self, outages: Sequence[Outage], kills: Progress) -> None:
        """One after the other. It is there again on return."""
        for outage in outages:
            await kills.reached(outage.after_kills)
            await asyncio.sleep(outage.delay_s)
            started = time.monotonic()
            await self._away(outage)
            self.lasted.append((outage, time.monotonic() - started))

    async def _away(self, outage: Outage) -> None:
        match outage.absence:
            case Absence.PAUSED:
                self._server.pause()
                try:
                    await asyncio.sleep(outage.lasts_s)
                finally:
                    self._server.resume()
            case Absence.KILLED:
                self._guard.watch(0)
                await asyncio.to_thread(self._server.kill)
                await asyncio.sleep(outage.lasts_s)
                await asyncio.to_thread(self._server.start)
                self._guard.watch(self._server.pid)
