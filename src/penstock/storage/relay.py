"""The relay: what "durable" means.

An object commits into its write-ahead log, which puts the bytes into the page cache and nothing more. It then
hands the relay a `Commit` (which object, which epoch of the log, from which byte to which) and goes on. The
relay makes commits durable in the order in which each object made them and reports how far it has come; the
object's output gate opens up to there. Nothing above this module knows how it is done:

    local      fdatasync of the log returned (this module)
    jetstream  the bytes were acknowledged by a quorum, under a compare-and-set on (object, epoch, offset)
    simulated  the local relay on a simulated disk

The bytes of a commit are read only by a relay that sends them somewhere: `Commit.read`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from penstock.base.clock import Clock
from penstock.base.errors import Fenced
from penstock.storage.disk import WalFile
from penstock.storage.offload import Offload


@dataclass(frozen=True, slots=True)
class Commit:
    """The durable form of one transaction: `size_bytes` bytes of an object's log from `offset_bytes`.

    `epoch` names the log: it grows each time the log starts again from its first byte, and each time the object
    is activated and writes. `position` counts the object's commits since its activation. The commit at offset 0 is
    the first to name its epoch: a relay that sends commits to another place makes that one durable here before it
    does, or a power cut could give the same epoch to another log.
    """

    position: int
    epoch: int
    offset_bytes: int
    size_bytes: int
    wal: WalFile

    def read(self) -> bytes:
        """The bytes themselves. Valid until the log starts a new epoch, which the object allows only when
        every commit of the old one is durable."""
        return self.wal.read(self.offset_bytes, self.size_bytes)


#: Told that every commit up to this position is durable. Called on the event loop.
OnDurable = Callable[[int], None]


class Lane(Protocol):
    """One object's way to durability. Positions are reported in order."""

    def ship(self, commit: Commit) -> None:
        """Take charge of a commit. Returns at once; `on_durable` is called later, or never again once the relay
        has failed."""
        ...


class Relay(Protocol):
    def open_lane(self, object_key: str, on_durable: OnDurable) -> Lane:
        """A lane for one activation of an object."""
        ...

    @property
    def failure(self) -> Fenced | None:
        """Why nothing becomes durable any more, or None. Once set it stays."""
        ...


@dataclass(slots=True)
class RelayStatistics:
    """Counters since start. How well group commit works shows as requests per sync."""

    commits: int = 0
    bytes: int = 0
    syncs: int = 0
    sync_ms: int = 0
    sync_ms_max: int = 0


class LocalRelay:
    """Durable means: `fdatasync` of the log returned.

    One round at a time: whatever was shipped while a round was under way is covered by the next, one sync per
    log however many commits it holds. That is group commit, without a timer: a lone commit waits for nothing,
    a crowd shares.

    A failed sync is final. Which bytes reached the disk is unknown and unknowable, so the relay reports nothing
    durable from then on, calls `on_failure` once, and the process must end.
    """

    def __init__(self, offload: Offload, clock: Clock, on_failure: Callable[[Fenced], None]) -> None:
        self._offload = offload
        self._clock = clock
        self._on_failure = on_failure
        self._waiting: dict[_LocalLane, Commit] = {}
        self._wake = asyncio.Event()
        self.failure: Fenced | None = None
        self.statistics = RelayStatistics()

    def open_lane(self, object_key: str, on_durable: OnDurable) -> Lane:
        return _LocalLane(self, on_durable)

    async def run(self) -> None:
        """Make commits durable until cancelled. Runs as one task of the process's task group."""
        while self.failure is None:
            await self._wake.wait()
            self._wake.clear()
            round_, self._waiting = self._waiting, {}
            if not round_:
                continue
            started_ms = self._clock.elapsed_ms()
            try:
                # A log is synced once, for the last commit shipped: its earlier bytes are covered too.
                await self._offload.run("sync", partial(_sync_all, [c.wal for c in round_.values()]))
            except OSError as error:
                self._fail(error)
                return
            self._count(round_, self._clock.elapsed_ms() - started_ms)
            for lane, commit in round_.items():
                lane.on_durable(commit.position)

    def take(self, lane: _LocalLane, commit: Commit) -> None:
        self.statistics.commits += 1
        self.statistics.bytes += commit.size_bytes
        self._waiting[lane] = commit
        self._wake.set()

    def _count(self, round_: dict[_LocalLane, Commit], took_ms: int) -> None:
        self.statistics.syncs += len(round_)
        self.statistics.sync_ms += took_ms
        self.statistics.sync_ms_max = max(self.statistics.sync_ms_max, took_ms)

    def _fail(self, error: OSError) -> None:
        self.failure = Fenced(
            f"The disk refused to make data durable ({error}). This process stops acknowledging and exits; check "
            "the disk, then start again: whatever was acknowledged before is in the log."
        )
        self._on_failure(self.failure)


class _LocalLane:
    __slots__ = ("_relay", "on_durable")

    def __init__(self, relay: LocalRelay, on_durable: OnDurable) -> None:
        self._relay = relay
        self.on_durable = on_durable

    def ship(self, commit: Commit) -> None:
        self._relay.take(self, commit)


def _sync_all(wals: list[WalFile]) -> None:
    for wal in wals:
        wal.sync()
