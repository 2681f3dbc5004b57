"""`penstock pipelines` against a real server: what the server says, the command shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from .conftest import Serve
from .harness import DEADLINE_S, Server


def penstock(server: Server, *arguments: str) -> str:
    """What the command prints."""
    server.wait_for("ready")
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "pipelines", *arguments, "--data-dir", str(server.data)],
        env={name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "AWS_"))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(server: Server, *arguments: str) -> Any:
    return json.loads(penstock(server, *arguments, "--json"))


def test_a_change_is_a_deployment_that_get_and_deployments_show_until_it_is_drained(serve: Serve) -> None:
    server = serve()
    made = shown(server, "create", "clicks", "--bucket", "my-bucket", "--filepath", "all", "--compression", "zstd")
    assert server.send(made["id"], 1, 2, 3).status == 200
    before = shown(server, "get", "clicks")
    assert (before["status"], before["backlog"]["records"]) == ("running", 3)
    assert {shard["executor"] for shard in before["shards"]} == {0, 1}
    assert "3 records (" in penstock(server, "get", "clicks")

    changed = shown(server, "update", "clicks", "--batch-max-seconds", "60", "--filename", "x-${slug}")
    assert changed["version"] == 2
    server.wait_for("generation_drained", version=1)
    newest, oldest = shown(server, "deployments", "clicks")
    assert (newest["version"], newest["state"]) == (2, "active")
    assert (oldest["version"], oldest["state"], oldest["drained_at"] is None) == (1, "drained", False)
    table = penstock(server, "deployments", "clicks")
    assert table.splitlines()[1].endswith("  file names by default → x-${slug}; batch age 300 s → 60 s")
    assert shown(server, "get", "clicks")["backlog"] == {"records": 0, "bytes": 0, "oldest_at": None}
    [file] = (server.data / "buckets" / "my-bucket" / "all").iterdir()
    assert file.name.endswith(".json.zst")


def test_what_is_discarded_is_delivered_nowhere_and_what_was_delivered_stays(serve: Serve) -> None:
    server = serve()
    pipeline = shown(server, "create", "clicks", "--bucket", "my-bucket", "--batch-max-rows", "2")["id"]
    assert server.send(pipeline, 1, 2).status == 200
    server.wait_delivered({1, 2})
    assert server.send(pipeline, 3).status == 200
    assert penstock(server, "delete", "clicks", "--discard", "--yes") == "✅ Deleted pipeline clicks\n"
    server.wait_for("pipeline_removed", pipeline=pipeline)
    assert server.send(pipeline, 4).status == 404
    assert penstock(server, "list") == ""
    server.stop()
    assert set(server.delivered()) == {1, 2}
