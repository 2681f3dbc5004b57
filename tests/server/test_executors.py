"""Several executors behind one port: seen as one, replaced one by one, and more or fewer at the next start."""

from __future__ import annotations

import os
import re
import signal
import socket

from .conftest import Serve
from .harness import Load, Server, assert_exactly_once


def metric(server: Server, name: str) -> dict[str, float]:
    """A metric by executor, from one scrape."""
    text = server.request("GET", "/metrics").body.decode()
    return {executor: float(value) for executor, value in re.findall(name + r'\{executor="(\d+)"\} (\S+)', text)}


def test_one_scrape_shows_all_executors(serve: Serve) -> None:
    server = serve(executors=3)
    pipeline = server.create()
    for number in range(30):
        assert server.send(pipeline, number).status == 200
    for _ in range(5):  # whichever executor is asked
        assert metric(server, "penstock_executor_up") == {"0": 1, "1": 1, "2": 1}
        records = metric(server, "penstock_ingest_records_total")
        assert len(records) == 3 and sum(records.values()) == 30
    assert sum(1 for count in records.values() if count) > 1, "the kernel gave all connections to one executor"
    assert sum(metric(server, "penstock_undelivered_bytes").values()) > 0


def test_a_killed_executor_comes_back_and_what_it_acknowledged_is_there(serve: Serve) -> None:
    server = serve()
    pipeline = server.create(max_rows=100)
    for slot in (0, 1):
        with Load(server, pipeline, first=slot * 1_000_000) as load:
            load.wait_acked(100)
            victim = server.executors()[slot]
            os.kill(victim, signal.SIGKILL)
            server.wait(lambda slot=slot, victim=victim: server.executors()[slot] != victim)
            load.wait_acked(len(load.acked) + 100)
        assert load.broken == []
        ended = server.lines("executor_ended", pid=victim)
        assert [line["exit_code"] for line in ended] == [-signal.SIGKILL]
        if slot == 0:
            acked, unknown = set(load.acked), set(load.unknown)
    for _ in range(6):
        assert server.request("GET", "/readyz").status == 200
    assert metric(server, "penstock_executor_up") == {"0": 1, "1": 1}
    assert_exactly_once(server.drain(acked | load.acked), acked | load.acked, unknown | load.unknown)


def test_an_executor_that_is_stopped_dead_shows_as_down(serve: Serve) -> None:
    server = serve()
    server.wait_for("ready")
    # Between a kill and the restart there is no moment to ask; so the socket that its sibling calls is taken away.
    sockets = os.readlink(server.data / "sockets")
    os.unlink(f"{sockets}/executor-0.sock")
    os.unlink(f"{sockets}/executor-1.sock")
    for _ in range(4):
        up = metric(server, "penstock_executor_up")
        assert sorted(up.values()) == [0, 1]


def test_the_number_of_executors_may_change_and_alarms_and_shards_are_found_again(serve: Serve) -> None:
    acked: set[int] = set()
    pipeline = ""
    for executors in (3, 1, 4):
        server = serve(executors=executors)
        # Nobody asks for what the last start left: alarms alone deliver it, those of slots that are gone too.
        server.wait_delivered(acked)
        pipeline = pipeline or server.create(shards=6, max_duration_s=1)
        numbers = range(len(acked), len(acked) + 40)
        for number in numbers:
            # Not 503: each shard was woken by the executor that owns it now, and by no other.
            assert server.send(pipeline, number).status == 200
        acked.update(numbers)
        if executors != 4:
            server.stop()
    assert_exactly_once(server.drain(acked), acked)


def test_the_log_is_json_line_by_line_whatever_comes(serve: Serve) -> None:
    server = serve()
    pipeline = server.create(max_rows=1)
    answers = [
        server.send(pipeline, 1),
        server.request("POST", f"/ingest/{pipeline}", b"["),
        server.request("POST", "/ingest/%C4%81%FF%00%22", b"[{}]"),
        server.request("GET", "/client/v4/accounts/x/pipelines"),
        server.request("GET", '/no%0Aroute"'),
    ]
    for garbage in (b"no http at all\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"\x16\x03\x01\x00"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(garbage)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
    server.wait_delivered({1})
    os.kill(server.executors()[0], signal.SIGKILL)
    server.wait_for("executor_ended")
    server.wait(lambda: len(server.lines("executor_ready", executor=0)) == 2)
    server.stop()
    assert server.stray == []
    assert server.lines("Invalid HTTP request received.", level="warning", logger="uvicorn.error")
    for line in server.log:
        assert {"event", "level", "timestamp", "process"} <= line.keys(), line
    for answer in answers[1:]:
        request_id = answer.headers["x-request-id"]
        assert [line for line in server.log if line.get("request_id") == request_id], answer


def test_an_executor_that_somebody_else_stops_is_replaced(serve: Serve) -> None:
    server = serve(executors=1)
    server.wait_for("ready")
    os.kill(server.executors()[0], signal.SIGTERM)
    server.wait(lambda: len(server.lines("executor_ready")) == 2)
    assert server.send(server.create(), 1).status == 200
    assert server.lines("executor_ended", exit_code=0)
