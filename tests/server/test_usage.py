"""Usage of a pipeline whose shards and requests are spread over executors."""

from __future__ import annotations

import os
import signal

from .conftest import Serve
from .test_executors import metric


def test_usage_sums_up_all_executors_and_survives_the_death_of_one(serve: Serve) -> None:
    server = serve(executors=2)
    pipeline = server.create()
    for number in range(20):
        assert server.send(pipeline, number).status == 200
        assert server.request("POST", f"/ingest/{pipeline}", b"[").status == 400
    found = server.control("GET", "/clicks/usage").json["result"]
    assert found["in"]["requests"] == found["in"]["records"] == found["backlog"]["records"] == 20
    assert found["since_start"]["refused"] == {"invalid": 20}
    victim = server.executors()[0]
    os.kill(victim, signal.SIGKILL)
    server.wait(lambda: server.executors()[0] != victim)
    found = server.control("GET", "/clicks/usage").json["result"]
    assert found["in"]["requests"] == 20
    assert metric(server, "penstock_executor_restarts_total") == {"0": 1, "1": 0}
