"""Starts that are disturbed, one at a time."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import Client
from .ledger import Ledger
from .plan import Kind, Strike
from .server import ServerTree

#: What `penstock serve --drain-seconds` defaults to: nothing is under way here, so all of it means that it hangs.
DRAIN_S = 10

pytestmark = pytest.mark.chaos


@pytest.fixture
def server() -> Iterator[ServerTree]:
    folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
    tree = ServerTree(folder, executors=2)
    try:
        yield tree
    finally:
        tree.clean_up()
        shutil.rmtree(folder)


def test_sigterm_while_an_executor_starts_again_drains_it_like_any_other(server: ServerTree) -> None:
    async def terminated_after(seconds: float) -> tuple[int | None, bool]:
        """After the executor's start; the exit status, and whether it took long."""
        server.start()
        await server.wait_ready()
        ends = server.logged("executor_ended")
        server.kill(Strike(Kind.EXECUTOR), server.tree())
        # The next thing that the supervisor does is to start it again: there is no time to lose.
        server.wait_logged("executor_ended", ends + 1)
        await asyncio.sleep(seconds)
        started = time.monotonic()
        return await server.terminate(), time.monotonic() - started > DRAIN_S / 2

    # It takes some 30 ms to start one.
    for ms in (0, 1, 2, 4, 8, 16, 32):
        assert asyncio.run(terminated_after(ms / 1000)) == (0, False), f"after {ms} ms"
    assert server.left_over() == []


def test_a_kill_during_the_very_first_start_is_no_obstacle_to_the_next(server: ServerTree) -> None:
    async def killed_after(seconds: float) -> bool:
        shutil.rmtree(server.data, ignore_errors=True)
        server.start()
        await asyncio.sleep(seconds)
        server.kill_all()
        server.start()
        await server.wait_ready()
        ledger = Ledger()
        target = server.create_pipeline("first", batch={"max_duration_s": 1})
        client = Client(1, target, ledger)
        try:
            return await client.send(3) and not ledger.violations
        finally:
            client.close()
            server.kill_all()

    # The directory is made after some 0.25 s, its databases until 0.35 s.
    for ms in (200, 240, 260, 280, 300, 320, 360, 400):
        assert asyncio.run(killed_after(ms / 1000)), f"killed after {ms} ms"


def test_a_server_starts_at_once_when_only_the_supervisor_before_it_was_killed(server: ServerTree) -> None:
    async def killed_and_started() -> None:
        await server.wait_ready()
        tree = server.tree()
        server.kill(Strike(Kind.SUPERVISOR), tree)
        server.start()
        await server.wait_ready()
        assert not set(tree) & set(server.left_over()), "executors outlived their supervisor"

    server.start()
    for _ in range(10):
        asyncio.run(killed_and_started())
