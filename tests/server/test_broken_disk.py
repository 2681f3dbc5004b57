"""Fault B3: a disk that refuses to make data durable. What it kept of the last writes is unknowable, so the server
stops acknowledging and ends; a start on a disk that works again finds everything that was acknowledged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import Serve
from .harness import Load, assert_exactly_once

#: Loaded by every Python process that finds it: `fdatasync` fails as long as a file exists.
_SITECUSTOMIZE = """
import errno, os

really = os.fdatasync

def fdatasync(fd):
    if os.path.exists({path!r}):
        raise OSError(errno.EIO, "Input/output error")
    really(fd)

os.fdatasync = fdatasync
"""


class BrokenDisk:
    def __init__(self, folder: Path) -> None:
        self._fails = folder / "fails"
        self._modules = folder / "modules"
        self._modules.mkdir()
        (self._modules / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(path=str(self._fails)))

    @property
    def env(self) -> dict[str, str]:
        path = [str(self._modules), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path)}

    def break_(self) -> None:
        self._fails.touch()

    def repair(self) -> None:
        self._fails.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> BrokenDisk:
    return BrokenDisk(tmp_path)


def test_B3_a_failed_fsync_stops_acknowledging_and_exits_74(serve: Serve, disk: BrokenDisk) -> None:
    server = serve(env=disk.env)
    pipeline = server.create(max_rows=1_000)
    with Load(server, pipeline) as load:
        load.wait_acked(200)
    before, unknown = set(load.acked), set(load.unknown)
    assert not server.ended and load.broken == []

    disk.break_()
    with Load(server, pipeline, first=1_000_000) as load:  # it ends when the server refuses connections
        load.wait_refused()
    assert load.acked == set(), "acknowledged after a failed fsync"
    assert load.unknown
    assert server.exit_code() == 74
    assert server.stray == []
    fenced = server.lines("fenced", level="critical")
    assert fenced and all("Input/output error" in line["error"] for line in fenced)
    assert server.lines("giving_up", exit_code=74, reason="the disk refused to make data durable")

    disk.repair()
    again = serve(env=disk.env)
    assert_exactly_once(again.drain(before), before, unknown | load.unknown)


def test_B3_a_start_on_a_disk_that_still_refuses_serves_nobody_and_ends(serve: Serve, disk: BrokenDisk) -> None:
    first = serve(executors=1, env=disk.env)
    pipeline = first.create()
    assert first.send(pipeline, 1, 2, 3).status == 200
    first.stop()
    disk.break_()
    second = serve(executors=1, env=disk.env)
    assert second.exit_code() == 74
    assert not second.lines("ready")
    assert "Input/output error" in second.lines("fenced", level="critical")[0]["error"]
    assert second.stray == []
    disk.repair()
    assert_exactly_once(serve(executors=1, env=disk.env).drain({1, 2, 3}), {1, 2, 3})
