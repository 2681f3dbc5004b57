"""Kills processes under load and measures how long nobody is served."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from .bucket import Bucket
from .client import Client
from .server import ServerTree

#: What is killed, and how often of a hundred. Killing the supervisor alone leaves its executors behind, who must
#: notice and go before the next supervisor can have their files.
KINDS = {"executor": 70, "everything": 22, "supervisor": 8}
#: Of a hundred kills, so many are followed by the next one before the service is back: recovery is killed too.
KILL_DURING_RECOVERY_PERCENT = 15
#: Of a hundred kills, so many come right after a file has appeared in the bucket: before the server has noted that
#: it is delivered, or while its records are being freed. Left to chance, few kills would fall there.
KILL_AT_FILE_PERCENT = 50
FILE_WAIT_S_MAX = 1.5
#: The service is called steady when so many new connections in a row were served: the kernel spreads them over
#: the executors, so that all of them have most likely answered.
STEADY_ANSWERS = 12
RECOVERY_DEADLINE_S = 30.0
PAUSE_MEAN_S = 0.6


@dataclass(frozen=True, slots=True)
class Kill:
    kind: str
    #: Time from the kill to the first 200, None if the next kill came before. `steady_s`: to the twelfth in a row.
    recovery_s: float | None = None
    steady_s: float | None = None

    def __str__(self) -> str:
        if self.recovery_s is None or self.steady_s is None:
            return f"{self.kind}: killed again during recovery"
        return f"{self.kind}: {self.recovery_s:.3f} s to the first 200, {self.steady_s:.3f} s until steady"


class Nemesis:
    def __init__(self, server: ServerTree, bucket: Bucket, probe: Client, rng: random.Random) -> None:
        self._server = server
        self._bucket = bucket
        self._probe = probe
        self._rng = rng
        self._orphans_possible = False
        self.kills: list[Kill] = []
        self.violations: list[str] = []

    async def run(self, kills: int) -> None:
        while len(self.kills) < kills:
            await asyncio.sleep(min(4.0, self._rng.expovariate(1 / PAUSE_MEAN_S)))
            kind = self._rng.choices(list(KINDS), weights=list(KINDS.values()))[0]
            at_file = self._rng.randrange(100) < KILL_AT_FILE_PERCENT
            # In a thread, with the load going on: if the loop stopped for it, the server would be idle by then.
            killed_at = await asyncio.to_thread(self._kill, kind, at_file)
            impatient = self._rng.randrange(100) < KILL_DURING_RECOVERY_PERCENT
            if impatient and len(self.kills) + 1 < kills:
                self.kills.append(Kill(kind))
                await self._keep_started_for(self._rng.uniform(0, 0.6))
                continue
            first = await self._served(1, killed_at)
            steady = await self._served(STEADY_ANSWERS, killed_at)
            self.kills.append(Kill(kind, first, steady))
            self._orphans_possible = False

    def _kill(self, kind: str, at_file: bool) -> float:
        """Gives the time of the kill."""
        if self._server.ended:
            kind = "everything"  # killed again before its supervisor was there
        kill = self._server.aim(kind, self._rng)
        if at_file:
            self._bucket.wait_for_new_file(FILE_WAIT_S_MAX)
        killed_at = time.monotonic()
        kill()
        if kind != "executor":
            self._orphans_possible |= kind == "supervisor"
            self._server.start()
        return killed_at

    async def _served(self, answers: int, since: float) -> float:
        """Until so many requests in a row, each over a new connection, were acknowledged."""
        in_a_row = 0
        while in_a_row < answers:
            if time.monotonic() - since > RECOVERY_DEADLINE_S:
                self.violations.append(f"the service was not back {RECOVERY_DEADLINE_S:.0f} s after a kill")
                break
            in_a_row = in_a_row + 1 if await self._probe.send_afresh(1) else 0
            self._keep_started()
            await asyncio.sleep(0.01)
        return time.monotonic() - since

    async def _keep_started_for(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            self._keep_started()
            await asyncio.sleep(0.02)

    def _keep_started(self) -> None:
        """What an init system does. Only a supervisor that finds its predecessor's executors still there may
        end, to be started once more."""
        if self._server.ended:
            if not self._orphans_possible:
                self.violations.append(f"the supervisor ended by itself, with status {self._server.exit_status}")
            self._server.start()
