"""Fault A5: SIGTERM under load."""

from __future__ import annotations

import signal

from .conftest import Serve
from .harness import Load, Server, assert_exactly_once, is_gone


def wait_first_half(server: Server) -> None:
    """Until the server has the first five bytes of a body."""
    while 'inflight_bytes{executor="0"} 5.0' not in server.request("GET", "/metrics").body.decode():
        assert not server.ended


def test_A5_a_stop_under_load_loses_nothing_and_ends_with_0(serve: Serve) -> None:
    first = serve()
    # Files all the time, so that some are being written when the signal comes.
    pipeline = first.create(max_rows=20, max_duration_s=0.25)
    with Load(first, pipeline) as load:
        load.wait_acked(300)
        first.signal(signal.SIGTERM)
        assert first.exit_code() == 0, first.tail
        load.wait_refused()
    assert load.broken == [] and load.half_answered == set()
    assert not first.lines("executor_killed") and first.stray == []
    assert all(is_gone(pid) for pid in first.executors().values())
    second = serve()
    assert_exactly_once(second.drain(load.acked), load.acked, load.unknown)


def test_a_stop_waits_for_the_requests_under_way(serve: Serve) -> None:
    server = serve(executors=1)
    pipeline = server.create()
    slow = server.connect()
    slow.putrequest("POST", f"/ingest/{pipeline}")
    slow.putheader("Content-Length", "9")
    slow.endheaders(b'[{"n"')
    wait_first_half(server)
    server.signal(signal.SIGTERM)
    server.wait_for("draining")
    slow.send(b":1}]")
    response = slow.getresponse()
    assert (response.status, response.read()) == (200, b'{"success":true,"result":{"committed":1}}')
    slow.close()
    assert server.exit_code() == 0
    assert_exactly_once(serve().drain({1}), {1})


def test_a_stop_waits_no_longer_than_it_was_told_to(serve: Serve) -> None:
    server = serve("--drain-seconds", "0", executors=1)
    pipeline = server.create()
    stuck = server.connect()
    stuck.putrequest("POST", f"/ingest/{pipeline}")
    stuck.putheader("Content-Length", "9")
    stuck.endheaders(b'[{"n"')
    wait_first_half(server)
    server.signal(signal.SIGINT)  # Ctrl-C means the same
    assert server.exit_code() == 0, server.tail
    stuck.close()
    assert server.stray == []
    assert not server.lines("supervisor_lost") and server.lines("drained")
