"""A query on a real server: all shards of all executors, and what is left of the process that ran it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .conftest import Serve
from .harness import DEADLINE_S, Server


def query(server: Server, *arguments: str) -> list[list[object]]:
    command = [sys.executable, "-m", "penstock", "query", *arguments, "--json", "--data-dir", str(server.data)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[list[object]] = json.loads(done.stdout)["rows"]
    return rows


def test_a_query_sees_the_records_of_all_executors_once_each_in_files_and_before(serve: Serve) -> None:
    server = serve(executors=2)
    pipeline = server.create(shards=4, max_rows=5)
    for number in range(43):
        assert server.send(pipeline, number).status == 200
    sql = "select count(*), count(distinct n), count(distinct event_date) > 0 from clicks"
    assert query(server, sql, "--live") == [[43, 43, True]]
    # A second pipeline of the same bucket is another table.
    other = server.create("other", max_rows=1)
    assert server.send(other, 7).status == 200
    assert query(server, "select n from other where n in (select n from clicks)", "--live") == [[7]]
    for slot in (0, 1):
        folder = Path(server.data, "queries", str(slot))
        assert not folder.exists() or not list(folder.iterdir())
    server.stop()
