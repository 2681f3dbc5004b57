"""The local relay: one sync serves whoever waits, and a sync that fails is the last."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from penstock.base.clock import SystemClock
from penstock.base.errors import Fenced
from penstock.storage.offload import Threads
from penstock.storage.relay import Commit, Lane, LocalRelay


class Log:
    """A log whose syncs the test ends."""

    def __init__(self) -> None:
        self.syncs = 0
        self.error: OSError | None = None

    def sync(self) -> None:
        self.syncs += 1
        if self.error is not None:
            raise self.error

    def read(self, offset: int, size: int) -> bytes:
        raise AssertionError("the local relay reads nothing")

    def close(self) -> None:
        pass


class ManualOffload:
    """Does the work when the test says so."""

    def __init__(self) -> None:
        self._due: asyncio.Queue[tuple[Callable[[], Any], asyncio.Future[Any]]] = asyncio.Queue()

    async def run(self, lane: str, work: Callable[[], Any]) -> Any:
        assert lane == "sync"
        done = asyncio.get_running_loop().create_future()
        self._due.put_nowait((work, done))
        return await done

    async def finish(self) -> None:
        """Wait for the round under way to begin, do it, and let its outcome be noticed."""
        work, done = await self._due.get()
        try:
            done.set_result(work())
        except OSError as error:
            done.set_exception(error)
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def rounds_waiting(self) -> int:
        return self._due.qsize()


class Bench:
    def __init__(self) -> None:
        self.offload = ManualOffload()
        self.failures: list[Fenced] = []
        self.durable: dict[str, list[int]] = {}
        self.relay = LocalRelay(self.offload, SystemClock(), self.failures.append)

    def lane(self, key: str) -> Lane:
        reported = self.durable[key] = []
        return self.relay.open_lane(key, reported.append)


def run(main: Callable[[Bench], Awaitable[None]]) -> None:
    async def live() -> None:
        bench = Bench()
        running = asyncio.ensure_future(bench.relay.run())
        async with asyncio.timeout(10):
            await main(bench)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(live())


def commit(position: int, wal: Log, size: int = 100) -> Commit:
    return Commit(position, 1, position * size, size, wal)


def test_a_lone_commit_waits_for_nobody() -> None:
    async def main(bench: Bench) -> None:
        log, lane = Log(), bench.lane("a")
        lane.ship(commit(1, log))
        assert bench.durable["a"] == []
        await bench.offload.finish()
        assert bench.durable["a"] == [1]
        assert log.syncs == 1

    run(main)


def test_commits_made_during_a_sync_share_the_next_one() -> None:
    async def main(bench: Bench) -> None:
        log, lane = Log(), bench.lane("a")
        lane.ship(commit(1, log))
        await asyncio.sleep(0)
        for position in range(2, 50):
            lane.ship(commit(position, log))
        await bench.offload.finish()
        assert bench.durable["a"] == [1]
        await bench.offload.finish()
        assert bench.durable["a"] == [1, 49]
        assert log.syncs == 2
        assert bench.offload.rounds_waiting == 0
        statistics = bench.relay.statistics
        assert (statistics.commits, statistics.syncs, statistics.bytes) == (49, 2, 4900)

    run(main)


def test_each_log_is_synced_once_per_round_and_positions_rise() -> None:
    async def main(bench: Bench) -> None:
        logs = {key: Log() for key in "abc"}
        lanes = {key: bench.lane(key) for key in "abc"}
        for position in range(1, 7):
            for key in "abc":
                lanes[key].ship(commit(position, logs[key]))
            if position % 2 == 0:
                await bench.offload.finish()
        assert bench.durable == {key: [2, 4, 6] for key in "abc"}
        assert [log.syncs for log in logs.values()] == [3, 3, 3]

    run(main)


def test_b3_after_a_failed_sync_nothing_is_reported_durable_any_more() -> None:
    async def main(bench: Bench) -> None:
        good, bad = Log(), Log()
        bad.error = OSError(errno.EIO, "Input/output error")
        first, second = bench.lane("a"), bench.lane("b")
        first.ship(commit(1, good))
        second.ship(commit(1, bad))
        await bench.offload.finish()
        assert bench.durable == {"a": [], "b": []}
        [failure] = bench.failures
        assert bench.relay.failure is failure and "Input/output error" in failure.message

        bad.error = None  # as Linux does: the next sync of the same file claims success
        later = bench.lane("later")
        for lane in (first, second, later):
            lane.ship(commit(2, bad))
        for _ in range(20):
            await asyncio.sleep(0)
        assert bench.offload.rounds_waiting == 0
        assert bench.durable == {"a": [], "b": [], "later": []}
        assert bench.failures == [failure]
        assert bench.relay.failure is failure

    run(main)


def test_syncs_do_not_wait_for_bulk_work() -> None:
    async def main() -> None:
        offload, relay_done = Threads(), asyncio.Event()
        relay = LocalRelay(offload, SystemClock(), lambda error: None)
        running = asyncio.ensure_future(relay.run())
        loop, blocked = asyncio.get_running_loop(), asyncio.Event()
        release = threading.Event()

        def long_work() -> None:
            loop.call_soon_threadsafe(blocked.set)
            assert release.wait(10)

        files = [asyncio.ensure_future(offload.run("bulk", long_work)) for _ in range(4)]
        await blocked.wait()
        relay.open_lane("a", lambda position: relay_done.set()).ship(commit(1, Log()))
        async with asyncio.timeout(10):
            await relay_done.wait()
        assert not any(file.done() for file in files)
        release.set()
        await asyncio.gather(*files)
        running.cancel()
        offload.close()

    asyncio.run(main())
