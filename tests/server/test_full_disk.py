"""Fault B2: a file system that is really full, in memory so that it is quick to fill."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Serve
from .harness import Server, assert_exactly_once


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "penstock-test", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes what is left, to the last byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert os.statvfs(folder).f_bavail == 0
    return ballast


def send_until(server: Server, pipeline: str, status: int, numbers: Iterator[int]) -> set[int]:
    """Send records one by one until the answer has this status; gives those that were answered with 200."""
    acked = set()
    for number in numbers:
        answer = server.send(pipeline, number)
        if answer.status == 200:
            acked.add(number)
        else:
            assert answer.status == 507, answer
            assert "works again when there is room" in answer.json["error"]["message"]
        if answer.status == status:
            return acked
    raise AssertionError


@pytest.mark.parametrize("reserve", ["0", "4MB"])
def test_B2_a_full_disk_is_refused_with_507_until_there_is_room_without_a_restart(
    serve: Serve, small_disk: Path, reserve: str
) -> None:
    server = serve("--disk-reserve-bytes", reserve, data=small_disk / "data", executors=1)
    numbers = iter(range(100_000))
    acked: set[int] = set()
    # A shard that waits for its alarm already, and one whose first record must set it.
    pipelines = [server.create("waiting", shards=1), server.create("fresh", shards=1)]
    acked |= send_until(server, pipelines[0], 200, numbers)
    ballast = fill(small_disk)
    for pipeline in pipelines:
        acked |= send_until(server, pipeline, 507, numbers)
    assert server.request("GET", "/readyz").status == 200
    assert server.control("GET", "/fresh").status == 200

    ballast.unlink()
    for pipeline in pipelines:
        acked |= send_until(server, pipeline, 200, numbers)
    assert len(server.lines("executor_ready")) == 1  # nobody was restarted
    server.control("DELETE", "/waiting")
    assert_exactly_once(server.drain(acked, "fresh"), acked)


def test_B2_a_start_on_a_full_disk_waits_for_room(serve: Serve, small_disk: Path) -> None:
    server = serve("--disk-reserve-bytes", "0", data=small_disk / "data", executors=1)
    pipeline = server.create("waiting", shards=1)
    acked = send_until(server, pipeline, 200, iter([1]))
    server.signal(signal.SIGKILL)
    server.exit_code()
    ballast = fill(small_disk)
    # On another port it would have to note where, and there is no room for that.
    again = serve("--disk-reserve-bytes", "0", "--port", str(server.port), data=small_disk / "data", executors=1)
    # More often than a start that fails for another reason is tried.
    again.wait(lambda: len(again.lines("executor_ended", exit_code=75)) > 6)
    assert "The disk is full" in again.lines("executor_not_started")[0]["error"]
    ballast.unlink()
    again.wait_for("ready")
    assert_exactly_once(again.drain(acked, "waiting"), acked)
