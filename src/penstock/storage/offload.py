"""Work beside the event loop: the port through which blocking work leaves the loop's thread.

Writing to SQLite is done *on* the loop (microseconds, into the page cache); making it durable, checkpoints,
compression and file writing are done *beside* it. The simulator runs the same functions in line, at a
moment it draws.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol, TypeVar

T = TypeVar("T")

#: `sync` is for the relay alone, so that a commit never queues behind anything. `database` is for what calls may
#: wait for: opening, checkpoints, closing, a look at the free space. `bulk` is for what takes its time: files.
OffloadLane = Literal["sync", "database", "bulk"]


class Offload(Protocol):
    """Runs blocking functions without blocking the loop."""

    async def run(self, lane: OffloadLane, work: Callable[[], T]) -> T:
        """Call `work` beside the loop and give back what it returns or raises.

        Cancelling the caller does not stop `work`, which goes on to its end: `work` must be harmless to finish.
        """
        ...


class Threads:
    """Threads of this process: one for the relay, one for databases, two for files.

    More would only contend for the GIL: what they do (zlib, SQLite, write) releases it, the Python between does
    not.
    """

    def __init__(self) -> None:
        self._lanes = {
            "sync": ThreadPoolExecutor(1, thread_name_prefix="sync"),
            "database": ThreadPoolExecutor(1, thread_name_prefix="database"),
            "bulk": ThreadPoolExecutor(2, thread_name_prefix="bulk"),
        }

    async def run(self, lane: OffloadLane, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lanes[lane], work)

    def close(self) -> None:
        """Wait for the work under way to end, then end the threads."""
        for lane in self._lanes.values():
            lane.shutdown(wait=True, cancel_futures=True)
