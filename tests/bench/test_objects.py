"""The benchmark of objects, with so little to do that nothing is measured."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from bench import processes

SIZES = {"seconds": 0.01, "rounds": 1, "spread": 3, "existing": 5, "active": "2,4", "activations": 3}
ALARMS = {"due": 5, "pending": 100}
DEADLINE_S = 60


def run(folder: Path) -> str:
    command = [sys.executable, "-m", "bench.objects", "--folder", str(folder)]
    for name, value in {**SIZES, **ALARMS}.items():
        command += [f"--{name}", str(value)]
    output = folder / "output"
    process = processes.start(command, output)
    status = process.wait(DEADLINE_S)
    text = output.read_text()
    assert status == 0, text
    return text


def test_the_benchmark_of_objects_says_what_was_measured_on_what_and_cleans_up() -> None:
    with tempfile.TemporaryDirectory() as folder:  # `tmp_path` is too long for a Unix socket
        page = run(Path(folder))
        assert os.listdir(folder) == ["output"]
    for fact in ("- commit: ", "- command: python -m bench.objects", "- fdatasync of 4 KiB: ", "`fdatasync`"):
        assert fact in page
    for measured in (
        "| write | 64 | 3 | other process |",
        "| read | 1 | 1 | same process |",
        "| start with 5 existing objects |",
        "| memory of 4 active objects |",
        "| first call to an existing object, p99 |",
        "| 5 alarms due at once, objects not in memory |",
        "| one look for due alarms, 100 pending |",
        "| a durable write, 64 callers of one object, to the bare group-committed one | <= 1.5x |",
    ):
        assert measured in page
    assert "Every acknowledged write is there, once." in page
