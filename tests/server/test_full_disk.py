"""Fault B2: a file system that is really full, in memory so that it is quick to fill."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import Serve
from .harness import BUCKET, Server, assert_exactly_once


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_tmpfs(tmp_path / "small") as folder:
        yield folder


@contextmanager
def mounted_tmpfs(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "penstock-test", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
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


def test_B2_where_files_are_prepared_is_full_and_records_are_taken_and_wait_for_room(
    serve: Serve, tmp_path: Path
) -> None:
    """The spool has a file system of its own: what fails there is delivery, and ingestion goes on."""
    app = tmp_path / "same.py"
    app.write_text("from penstock import App\napp = App()\n@app.transform('same')\ndef same(r): return r\n")
    server = serve("--app", str(app), executors=1)
    server.wait_for("ready")
    with mounted_tmpfs(server.data / "spool") as spool:
        ballast = fill(spool)
        destination = {"path": {"bucket": BUCKET}, "batch": {"max_rows": 1}}
        body = {"name": "clicks", "transforms": [{"name": "same"}], "destination": destination}
        created = server.control("POST", "", body)
        assert created.status == 200, created
        pipeline = created.json["result"]["id"]
        numbers = iter(range(100_000))
        acked = send_until(server, pipeline, 200, numbers)
        said = server.wait_for("file_not_delivered")
        assert "The disk is full" in said["error"], said
        for _ in range(20):
            acked |= send_until(server, pipeline, 200, numbers)
        assert server.delivered() == {}
        backlog = server.control("GET", "/clicks").json["result"]["backlog"]
        assert backlog["records"] == len(acked)

        ballast.unlink()
        assert server.wait_delivered(acked) == dict.fromkeys(acked, 1)
        assert len(server.lines("executor_ready")) == 1  # nobody was restarted
        assert_exactly_once(server.drain(acked), acked)
        assert not [path for path in spool.rglob("*") if path.is_file()]
