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

#: `sync` is for the relay alone, so that a commit never queues behind a large file; `bulk` is for the rest.
OffloadLane = Literal["sync", "bulk"]


class Offload(Protocol):
    """Runs blocking functions without blocking the loop."""

    async def run(self, lane: OffloadLane, work: Callable[[], T]) -> T:
        """Call `work` beside the loop and give back what it returns or raises.

        Cancelling the caller does not stop `work`, which goes on to its end: `work` must be harmless to finish.
        """
        ...


class Threads:
    """Threads of this process: one for the relay, two for bulk work.

    Two bulk threads keep a checkpoint from waiting for a long file. More would only contend for the GIL: what
    they do (zlib, SQLite, write) releases it, the Python between does not.
    """

    def __init__(self) -> None:
        self._lanes = {
            "sync": ThreadPoolExecutor(1, thread_name_prefix="sync"),
            "bulk": ThreadPoolExecutor(2, thread_name_prefix="bulk"),
        }

    async def run(self, lane: OffloadLane, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lanes[lane], work)

    def close(self) -> None:
        """Wait for the work under way to end, then end the threads."""
        for lane in self._lanes.values():
            lane.shutdown(wait=True, cancel_futures=True)
