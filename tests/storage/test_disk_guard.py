"""Ingestion stops at the reserve, and starts again by itself."""

from __future__ import annotations

import pytest

from penstock.base.errors import StorageFull
from penstock.base.limits import DISK_CHECK_INTERVAL_MS
from penstock.base.rng import seeded_rng
from penstock.storage.disk import OsDisk
from penstock.storage.disk_guard import DiskGuard
from penstock.testing.sim.clock import SimClock
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.offload import SimOffload


class ShrinkingDisk(OsDisk):
    free = 1_000

    def free_bytes(self, path: str) -> int:
        assert path == "/data"
        return self.free


def test_b2_the_guard_refuses_at_the_reserve_and_no_longer_when_there_is_room() -> None:
    async def main(loop: VirtualLoop) -> None:
        disk, clock = ShrinkingDisk(), SimClock(loop)
        guard = DiskGuard(disk, "/data", 100, clock, SimOffload(loop, seeded_rng(1)))
        loop.create_task(guard.run())
        guard.check()
        for free, refuses in ((101, False), (100, True), (0, True), (101, False), (99, True), (10**12, False)):
            disk.free = free
            await clock.sleep_ms(DISK_CHECK_INTERVAL_MS + 10)
            if refuses:
                with pytest.raises(StorageFull, match=f"{free} bytes free; disk_reserve_bytes is 100") as caught:
                    guard.check()
                assert caught.value.retry_after_s
            else:
                guard.check()

    run_virtual(main)


def test_the_guard_knows_from_the_start() -> None:
    async def main(loop: VirtualLoop) -> None:
        disk = ShrinkingDisk()
        disk.free = 1
        guard = DiskGuard(disk, "/data", 100, SimClock(loop), SimOffload(loop, seeded_rng(1)))
        with pytest.raises(StorageFull):
            guard.check()

    run_virtual(main)
