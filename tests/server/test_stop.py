"""Fault A5: SIGTERM under load."""

from __future__ import annotations

import gzip
import json
import signal
from collections import Counter
from datetime import timedelta

import obstore
from obstore.store import S3Store
from tests.s3 import WRITER, S3Server

from .conftest import Serve
from .harness import Load, Server, assert_exactly_once, is_gone
from .s3_front import S3Front


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


def numbers_in(server: S3Server, bucket: str) -> Counter[int]:
    store = S3Store(
        bucket,
        endpoint=server.endpoint,
        access_key_id=WRITER.access_key_id,
        secret_access_key=WRITER.secret_access_key,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": timedelta(seconds=10)},
    )
    files = [bytes(obstore.get(store, meta["path"]).bytes()) for page in store.list() for meta in page]
    return Counter(json.loads(line)["n"] for file in files for line in gzip.decompress(file).splitlines())


def test_A5_a_stop_under_load_while_files_are_uploaded_loses_nothing_and_ends_with_0(
    serve: Serve, s3_server: S3Server
) -> None:
    bucket = s3_server.make_bucket()
    with S3Front(s3_server.port) as front:
        first = serve()
        credentials = {
            "endpoint": front.endpoint,
            "access_key_id": WRITER.access_key_id,
            "secret_access_key": WRITER.secret_access_key,
        }
        destination = {
            "path": {"bucket": bucket},
            "batch": {"max_rows": 20, "max_duration_s": 0.25},
            "credentials": credentials,
        }
        created = first.control("POST", "", {"name": "clicks", "destination": destination})
        assert created.status == 200, created
        pipeline = created.json["result"]["id"]
        with Load(first, pipeline) as load:
            load.wait_acked(100)
            front.hold()
            front.wait_held()
            load.wait_acked(300)
            first.signal(signal.SIGTERM)
            assert first.exit_code() == 0, first.tail
            load.wait_refused()
        assert load.broken == [] and load.half_answered == set()
        assert not first.lines("executor_killed") and first.stray == []
        # What was under way arrives now that nobody is there to hear of it, and is sent again by the next.
        front.release()
        second = serve()
        second.wait_for("ready")
        second.control("DELETE", "/clicks")
        second.wait(lambda: load.acked <= numbers_in(s3_server, bucket).keys())
        second.stop()
    assert_exactly_once(numbers_in(s3_server, bucket), load.acked, load.unknown)


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
