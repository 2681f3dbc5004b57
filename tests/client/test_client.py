"""The synchronous client, over real connections."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock import Client, ClientSettings, Invalid, SendError, Unavailable
from penstock.base.clock import SystemClock
from penstock.client.ports import ClientPorts

from .conftest import LoopbackServer
from .world import numbered, numbers

DEADLINE_S = 20


class Impatient(SystemClock):
    """Time runs, but nobody waits: a pause between two tries takes no time."""

    async def sleep_ms(self, ms: int) -> None:
        await asyncio.sleep(0)


def client_of(server: LoopbackServer, **settings: int) -> Client:
    return Client(server.url, "secret", "account", settings=ClientSettings(**settings))  # type: ignore[arg-type]


def test_send_gives_the_number_of_records_that_are_stored(server: LoopbackServer) -> None:
    with client_of(server) as client:
        clicks = client.pipeline("clicks")
        assert clicks.send(numbered(1, 2)) == 2
        assert clicks.send(numbered(3)) == 1
        assert clicks.endpoint() == server.endpoint
    assert numbers(server.stored) == [1, 2, 3]
    lookup, first, second = server.seen
    assert lookup[0] == "/client/v4/accounts/account/pipelines/clicks"
    assert first[0] == second[0] == f"/ingest/{server.endpoint[-32:]}"
    assert {headers["authorization"] for _, headers in server.seen} == {"Bearer secret"}
    assert len(server.connections) == 1, "the connection is kept"


def test_what_was_put_is_stored_after_a_flush_and_after_the_block(server: LoopbackServer) -> None:
    with client_of(server) as client:
        clicks = client.pipeline_at(server.endpoint)
        for record in numbered(1, 2, 3):
            clicks.put(record)
        clicks.flush()
        assert numbers(server.stored) == [1, 2, 3]
        clicks.put({"n": 4})
        client.flush()
        assert numbers(server.stored) == [1, 2, 3, 4]
        clicks.put({"n": 5})
    assert numbers(server.stored) == [1, 2, 3, 4, 5]


def test_it_is_tried_again_after_an_error(server: LoopbackServer) -> None:
    refusals = iter([(503, {"Retry-After": "1"}), (500, {})])
    server.before = lambda path: next(refusals, None)
    with Client(ports=ClientPorts(clock=Impatient())) as client:
        assert client.pipeline_at(server.endpoint).send(numbered(1)) == 1
    assert len(server.by_key) == 1


def test_nobody_who_listens_is_an_error_that_says_where() -> None:
    with Client(settings=ClientSettings(deadline_ms=1)) as client:
        clicks = client.pipeline_at("http://127.0.0.1:1/ingest/x")
        with pytest.raises(SendError, match=r"127\.0\.0\.1:1") as error:
            clicks.send(numbered(1))
        assert error.value.kind == "unavailable"
        assert numbers(error.value.records) == [1]


def test_an_error_in_the_background_comes_with_the_next_call(server: LoopbackServer) -> None:
    server.before = lambda path: (403, {})
    client = client_of(server)
    clicks = client.pipeline_at(server.endpoint)
    clicks.put({"n": 1})
    with pytest.raises(SendError) as error:
        clicks.flush()
    assert (error.value.kind, numbers(error.value.records)) == ("forbidden", [1])
    clicks.put({"n": 2})
    with pytest.raises(SendError) as error:
        client.close()
    assert numbers(error.value.records) == [2]
    client.close()


def test_any_number_of_threads_may_use_one_client(server: LoopbackServer) -> None:
    # A small buffer, so that they wait for room now and then.
    with client_of(server, buffer_bytes_max=2_000, batch_bytes_max=500) as client:

        def work(first: int) -> None:
            clicks = client.pipeline("clicks")
            for n in range(first, first + 200):
                clicks.put({"n": n})
            assert clicks.send(numbered(first + 200)) == 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(0, 8_000, 1_000)))
    expected = {first + n for first in range(0, 8_000, 1_000) for n in range(201)}
    assert sorted(numbers(server.stored)) == sorted(expected)
    assert sum(path.startswith("/client") for path, _ in server.seen) == 1


def test_after_its_end_a_client_takes_nothing(server: LoopbackServer) -> None:
    client = client_of(server)
    clicks = client.pipeline("clicks")
    clicks.put({"n": 1})
    client.close()
    for call in (lambda: clicks.put({"n": 2}), lambda: clicks.send(numbered(2)), clicks.flush, client.flush):
        with pytest.raises(Invalid, match="closed"):
            call()
    assert numbers(server.stored) == [1]
    assert not [thread for thread in threading.enumerate() if thread.name == "penstock-client"]


def test_a_client_that_was_never_used_starts_no_thread(server: LoopbackServer) -> None:
    with client_of(server) as client:
        client.pipeline("clicks")
        assert not [thread for thread in threading.enumerate() if thread.name == "penstock-client"]


def test_who_waits_for_an_answer_when_the_client_is_closed_gets_to_know(server: LoopbackServer) -> None:
    asked, answer = threading.Event(), threading.Event()

    def wait(path: str) -> None:
        asked.set()
        assert answer.wait(DEADLINE_S)

    server.before = wait
    client = client_of(server)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.pipeline_at(server.endpoint).send, numbered(1))
        assert asked.wait(DEADLINE_S)
        client.close()
        with pytest.raises((SendError, Unavailable), match="closed"):
            waiting.result(DEADLINE_S)
        answer.set()


def _in_child(client: Client, endpoint: str, results: multiprocessing.SimpleQueue[object]) -> None:
    try:
        results.put(client.pipeline_at(endpoint).send(numbered(2)))
    except Invalid as error:
        results.put(error.message)
    client.close()


# From 3.12 on Python warns of every fork in a process with threads, which is what this is about.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("used", [False, True])
def test_after_a_fork_only_a_client_that_was_not_used_before_can_be_used(
    server: LoopbackServer, used: bool
) -> None:
    with client_of(server) as client:
        clicks = client.pipeline_at(server.endpoint)
        if used:
            clicks.put({"n": 1})
        context = multiprocessing.get_context("fork")
        results: multiprocessing.SimpleQueue[object] = context.SimpleQueue()
        child = context.Process(target=_in_child, args=(client, server.endpoint, results))
        child.start()
        child.join(DEADLINE_S)
        assert child.exitcode == 0
        result = results.get()
        results.close()
    assert "make a client in each process" in result if used else result == 1  # type: ignore[operator]
    assert numbers(server.stored) == ([1] if used else [2]), (
        "what was put before the fork is sent once, by the parent"
    )


def _run(program: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_was_put_is_sent_when_the_program_ends(server: LoopbackServer, host: str) -> None:
    # A name has to be looked up, which is usually done on threads; there are none any more by then.
    ended = _run(f"""
        import penstock
        clicks = penstock.Client().pipeline_at("{server.endpoint.replace("127.0.0.1", host)}")
        for n in range(1000):
            clicks.put({{"n": n}})
    """)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert sorted(numbers(server.stored)) == [*range(1000)]


def test_a_program_that_fails_sends_what_it_put_before(server: LoopbackServer) -> None:
    ended = _run(f"""
        import penstock
        penstock.Client().pipeline_at("{server.endpoint}").put({{"n": 1}})
        raise SystemExit(3)
    """)
    assert (ended.returncode, ended.stderr) == (3, "")
    assert numbers(server.stored) == [1]


def test_the_end_of_a_program_waits_for_a_bounded_time_and_says_what_was_not_sent() -> None:
    ended = _run("""
        import penstock
        settings = penstock.ClientSettings(close_ms_max=200)
        client = penstock.Client(settings=settings)
        client.pipeline_at("http://127.0.0.1:1/ingest/x").put({"n": 1})
    """)
    assert "SendError: 1 record not sent to http://127.0.0.1:1/ingest/x" in ended.stderr
    assert "close_ms_max, 200" in ended.stderr


def test_to_import_the_package_costs_no_http_library() -> None:
    ended = _run("""
        import sys
        import penstock, penstock.cli.target
        assert "aiohttp" not in sys.modules and "asyncio" not in sys.modules
        penstock.Client
        assert "penstock.server" not in sys.modules and "penstock.objects" not in sys.modules
        assert "aiohttp" not in sys.modules
    """)
    assert (ended.returncode, ended.stderr) == (0, "")


# -- where the server is --------------------------------------------------------------------------------------


def test_server_and_token_are_found_as_the_command_line_finds_them(
    server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token_sent(client: Client) -> str:
        with client:
            client.pipeline("clicks").send(numbered(1))
        return server.seen[-1][1]["authorization"].removeprefix("Bearer ")

    for folder in ("data", "other"):
        (tmp_path / folder).mkdir()
        text = f'account_id = "a"\ntoken = "of {folder}"\nurl = "{server.url}"\n'
        (tmp_path / folder / "credentials.toml").write_text(text)
    assert token_sent(Client()) == "of data"
    assert token_sent(Client(data_dir=tmp_path / "other")) == "of other"
    monkeypatch.setenv("PENSTOCK_DATA_DIR", "other")
    assert token_sent(Client()) == "of other"
    monkeypatch.setenv("PENSTOCK_TOKEN", "of the environment")
    assert token_sent(Client()) == "of the environment"
    assert token_sent(Client(token="given")) == "given"


def test_without_credentials_it_says_all_the_ways_to_give_them() -> None:
    with pytest.raises(Invalid) as error:
        Client().pipeline("clicks")
    for way in ("penstock serve", "the argument data_dir", "the argument account_id", "PENSTOCK_ACCOUNT_ID"):
        assert way in str(error.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8787", "ftp://host", "http://"])
def test_what_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="the argument endpoint"):
        Client().pipeline_at(url)
    with pytest.raises(Invalid, match="the argument url"):
        Client(url, "token", "account").pipeline("clicks")


def test_a_proxy_is_used_as_the_environment_says_but_not_for_loopback(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "internal.test")
    with Client(settings=ClientSettings(deadline_ms=10_000)) as client:
        client.pipeline_at(server.endpoint).send(numbered(1))
        assert client.pipeline_at("http://elsewhere.test/ingest/x").send(numbered(2)) == 1
    assert [path for path, _ in server.seen] == [
        f"/ingest/{server.endpoint[-32:]}",
        "http://elsewhere.test/ingest/x",
    ]
