"""A tail over several executors, from the command that shows it."""

from __future__ import annotations

import os
import subprocess
import sys

from .conftest import Serve
from .harness import DEADLINE_S


def test_A5_a_tail_sees_the_shards_of_all_executors_and_does_not_hold_up_a_stop(serve: Serve) -> None:
    server = serve(executors=2)
    pipeline = server.create(shards=4)
    command = [sys.executable, "-m", "penstock", "pipelines", "tail", "clicks", "--data-dir", str(server.data)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as tail:
        try:
            assert tail.stdout is not None
            # Only a record that is seen says that it watches.
            server.wait_for("request", path=path_of(server.credentials["account_id"]))
            for number in range(40):
                assert server.send(pipeline, number).status == 200
            seen = [tail.stdout.readline() for _ in range(40)]
            assert sorted(seen) == sorted(f'{{"n": {number}, "event": "page_view"}}\n' for number in range(40))
            server.stop()
            assert tail.wait(DEADLINE_S) == 0
        finally:
            tail.kill()


def path_of(account: str) -> str:
    return f"/client/v4/accounts/{account}/pipelines/clicks/tail"
