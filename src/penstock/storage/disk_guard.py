"""Refuse before the disk is full.

Sealing, delivering and freeing need a little room themselves: if ingestion took the last byte, nothing could
make room again. So it stops at a reserve, and starts again by itself.
"""

from __future__ import annotations

from functools import partial

from penstock.base.clock import Clock
from penstock.base.errors import StorageFull
from penstock.base.limits import DISK_CHECK_INTERVAL_MS, DISK_FULL_RETRY_S
from penstock.storage.disk import Disk
from penstock.storage.offload import Offload


class DiskGuard:
    def __init__(self, disk: Disk, path: str, reserve_bytes: int, clock: Clock, offload: Offload) -> None:
        self._disk = disk
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._offload = offload
        self.free_bytes = disk.free_bytes(path)

    async def run(self) -> None:
        """Look at the free space now and then, for ever."""
        while True:
            await self._clock.sleep_ms(DISK_CHECK_INTERVAL_MS)
            self.free_bytes = await self._offload.run("database", partial(self._disk.free_bytes, self._path))

    def check(self) -> None:
        """Raises `StorageFull` when what is free is the reserve, or less."""
        if self.free_bytes <= self._reserve_bytes:
            raise StorageFull(
                f"The disk has {self.free_bytes} bytes free; disk_reserve_bytes is {self._reserve_bytes}. Nothing "
                "was stored; it works again when there is room.",
                retry_after_s=DISK_FULL_RETRY_S,
            )
