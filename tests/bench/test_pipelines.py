"""The benchmarks of pipelines, with so little to do that nothing is measured."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
from bench import buckets, command, load, payload, processes, servers

#: Several servers are started by each, SeaweedFS among them, on a machine that may be busy.
DEADLINE_S = 180


def run(module: str, **options: object) -> str:
    """What the benchmark printed. It leaves nothing behind, and found that no record is missing."""
    with tempfile.TemporaryDirectory() as folder:  # `tmp_path` is too long for a Unix socket
        line = [sys.executable, "-m", f"bench.{module}", "--folder", folder]
        for name, value in options.items():
            line += [f"--{name.replace('_', '-')}", str(value)]
        output = Path(folder) / "output"
        process = processes.start(line, output)
        try:
            status = process.wait(DEADLINE_S)
        finally:
            processes.stop(process)
        page = output.read_text()
        assert status == 0, page
        assert os.listdir(folder) == ["output"]
    for fact in ("- commit: ", f"- command: python -m bench.{module}", "- fdatasync of 4 KiB: ", "`fdatasync`"):
        assert fact in page
    assert "| memory of the tree in MB, throughout | < 800 |" in page
    return page


def with_s3(kind: str) -> bool:
    return kind in buckets.kinds_possible()


def test_ingestion_while_delivering_is_measured_beside_the_floor_for_each_kind_of_bucket() -> None:
    page = run("delivery", seconds=1, rounds=1, sizes="10", connections=4)
    assert "| none (floor) | 10 |" in page
    assert "| folder | 10 |" in page
    assert ("| s3 | 10 |" in page) == with_s3("s3")
    assert "| 10 records/request, folder: in files, ratio to the floor | >= 0.5 |" in page
    assert "counts agree." in page


def test_the_time_until_a_record_is_visible_is_measured_for_each_kind_of_bucket() -> None:
    page = run("visibility", seconds=0.5, rate=10)
    assert "| folder | 5 | 0 |" in page
    assert ("| s3 | 5 | 0 |" in page) == with_s3("s3")
    assert "Every acknowledged record is there, once." in page


def test_a_restart_with_records_undelivered_is_measured_beside_one_without() -> None:
    page = run("restart", undelivered_mb=1)
    # 1 MB, and what was under way on other connections when it was reached.
    assert re.findall(r"\| folder \| ([0-9]+) \|", page) in (["0", "1"], ["0", "2"])
    assert bool(re.findall(r"\| s3 \| [12] \|", page)) == with_s3("s3")
    assert "folder: counts agree: " in page
    assert "not in time" not in page


def test_memory_with_the_bucket_down_is_sampled_until_records_are_refused_and_after() -> None:
    page = run("sink_down", seconds=1, budget_mb=2)
    for how in ("refuses", "hangs"):
        assert f"| {how}: memory, growth until the last 200 | <= 1.1 |" in page
        assert f"{how}: counts agree: " in page
    assert page.count("The last refusal: 429, Retry-After: ") == 2


def test_many_pipelines_at_once_are_measured_beside_one() -> None:
    page = run("many_pipelines", seconds=0.5, rounds=1, pipelines=3, connections=6, records=2)
    assert "\n| 1 | " in page
    assert "\n| 3 | " in page
    assert "counts agree: " in page


def test_quiet_pipelines_are_measured_without_a_hot_one_and_with_it() -> None:
    page = run("fairness", seconds=1, rounds=1, quiet=2, rate=4, times=10, connections=2)
    assert "| alone | 8 | 0 |" in page
    assert "| beside | 8 | 0 |" in page
    assert "| request to visible (dwell), p99, beside to alone | <= 2 |" in page
    assert "Every acknowledged quiet record is there, once." in page


def test_the_client_loads_each_address_with_its_own_connections(tmp_path: Path) -> None:
    bodies = payload.write_bodies(tmp_path / "bodies", 2)
    with servers.floor(1, tmp_path / "floor") as floor:
        urls = [f"{floor.url}{path}" for path in ("one", "two")]
        loaded = load.run_each(urls, bodies, connections=4, seconds=0.5)
        assert loaded.ok == sum(loaded.ok_of_each) > 0
        assert len(loaded.ok_of_each) == 2
        assert min(loaded.ok_of_each) > 0
        assert loaded.ok <= floor.held().records / 2 <= loaded.ok + 4


def test_connections_that_pause_send_no_more_than_their_pauses_allow(tmp_path: Path) -> None:
    bodies = payload.write_bodies(tmp_path / "bodies", 1)
    with servers.floor(1, tmp_path / "floor") as floor:
        loaded = load.run_each([floor.url], bodies, connections=2, seconds=1, pause_ms=100)
        assert 0 < loaded.ok <= 2 * (1 + 1_000 // 100)


def test_a_load_without_one_answer_is_an_error(tmp_path: Path) -> None:
    bodies = payload.write_bodies(tmp_path / "bodies", 1)
    with pytest.raises(RuntimeError, match="the load generator"):
        load.run(f"http://127.0.0.1:{processes.free_port()}/", bodies, connections=1, seconds=1)


def test_a_target_that_was_not_measured_is_not_met() -> None:
    judged = command.targets([("this", "<=", 1, float("nan")), ("that", ">=", 2, 2.0)])
    assert "| this | <= 1 | nan | MISSED |" in judged
    assert "| that | >= 2 | 2.00 | met |" in judged
