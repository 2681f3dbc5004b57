from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.demo import story
from penstock.cli.demo.files import Arrivals, read_records, tree
from penstock.cli.demo.process import Server, is_free
from penstock.cli.demo.query import events_query, run_query
from penstock.cli.demo.sample import clickstream
from penstock.cli.demo.wait import wait
from penstock.cli.errors import CliError

END = datetime(2026, 11, 23, 14, 5, tzinfo=UTC)


def write_file(folder: Path, name: str, records: list[Any]) -> Path:
    path = folder / "event_date=2026-11-23" / "hr=14" / f"{name}.json.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(json.dumps(record).encode() + b"\n" for record in records)))
    return path


# The sample


def test_the_same_arguments_make_the_same_clickstream() -> None:
    assert clickstream(300, run="r", end=END) == clickstream(300, run="r", end=END)
    assert clickstream(300, run="r", end=END) != clickstream(300, run="r", end=END, seed=1)


def test_every_record_has_an_id_of_its_own_that_names_the_run() -> None:
    ids = [record["id"] for record in clickstream(300, run="r", end=END)]
    assert len(set(ids)) == 300
    assert all(id.startswith("r-") for id in ids)


def test_records_are_in_the_order_of_their_time_and_end_at_the_end() -> None:
    times = [datetime.fromisoformat(record["ts"]) for record in clickstream(300, run="r", end=END)]
    assert times == sorted(times)
    assert times[-1] == END
    assert END - times[0] < timedelta(hours=1)


def test_a_visit_starts_by_looking_and_buys_only_at_the_checkout() -> None:
    sessions: dict[str, list[str]] = {}
    for record in clickstream(600, run="r", end=END):
        sessions.setdefault(record["session"], []).append(record["event"])
    assert len(sessions) > 50
    assert {events[0] for events in sessions.values()} == {"page_view"}
    bought = [events for events in sessions.values() if "purchase" in events]
    assert bought
    assert all(events[events.index("purchase") - 1] == "checkout" for events in bought)


def test_no_record_is_as_many_as_asked_for() -> None:
    assert clickstream(0, run="r", end=END) == []


# The files


def test_arrivals_are_whole_when_each_record_came_once(tmp_path: Path) -> None:
    records = clickstream(10, run="r", end=END)
    write_file(tmp_path, "01A", records[:6])
    write_file(tmp_path, "01B", [*records[6:], {"event": "of somebody else"}, {"id": "earlier-1"}])
    arrivals = Arrivals(tmp_path, "r")
    assert [path.name for path in arrivals.look()] == ["01A.json.gz", "01B.json.gz"]
    assert arrivals.problem(records) is None
    assert arrivals.others == 2


def test_a_file_is_looked_at_once(tmp_path: Path) -> None:
    write_file(tmp_path, "01A", clickstream(3, run="r", end=END))
    arrivals = Arrivals(tmp_path, "r")
    arrivals.look()
    assert arrivals.look() == []
    assert arrivals.ids.total() == 3


def test_lost_repeated_and_unknown_records_are_counted_apart(tmp_path: Path) -> None:
    records = clickstream(10, run="r", end=END)
    write_file(tmp_path, "01A", [*records[2:], records[9], records[9], {"id": "r-99999"}])
    arrivals = Arrivals(tmp_path, "r")
    arrivals.look()
    assert arrivals.problem(records) == ("of 10 records 2 are missing, 2 came twice, and 1 were never sent")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write_file(tmp_path, "01A", clickstream(50, run="r", end=END))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CliError, match=r"01A\.json\.gz is not a complete file"):
        read_records(path)


def test_files_show_as_a_tree_with_sizes(tmp_path: Path) -> None:
    first = write_file(tmp_path, "01A", [{"a": 1}])
    second = write_file(tmp_path, "01B", [{"a": 2}])
    assert list(tree(tmp_path, [first, second], {first: 1, second: 1})) == [
        f"{tmp_path}/",
        "└── event_date=2026-11-23/hr=14/",
        f"    ├── 01A.json.gz  {first.stat().st_size} B, 1 record",
        f"    └── 01B.json.gz  {second.stat().st_size} B, 1 record",
    ]


def test_the_query_counts_events_over_all_files(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    write_file(folder, "01A", [{"event": "view", "user": "u1"}, {"event": "view", "user": "u1"}])
    write_file(folder, "01B", [{"event": "buy", "user": "u2"}])
    answer = run_query(events_query(folder))
    assert answer.columns == ["event", "records", "users"]
    assert answer.rows == [["view", "2", "1"], ["buy", "1", "1"]]


# Waiting, ports and processes


def test_waiting_ends_with_a_yes_or_with_the_time() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert wait(lambda: now[0] > 1, 5, now=lambda: now[0], sleep=sleep)
    assert not wait(lambda: False, 5, now=lambda: now[0], sleep=sleep)
    assert now[0] == pytest.approx(6.1, abs=0.2)


def test_a_port_is_free_when_nobody_listens_on_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free(port)
    assert is_free(port) and is_free(0)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def a_server(*lines: str, then: str) -> tuple[str, ...]:
    """A program that logs `lines`, and then does something."""
    return python(f"import signal, sys; sys.stderr.write({''.join(line + chr(10) for line in lines)!r}); {then}")


def test_a_server_is_ready_at_the_url_that_its_own_log_names(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    data_dir.mkdir()
    (data_dir / "server.log").write_text('{"event": "ready", "url": "http://of-an-earlier-start"}\n')
    command = a_server("no json", '{"event": "ready", "url": "http://127.0.0.1:5"}', then="signal.pause()")
    with Server(data_dir, 0, command=command) as server:
        server.wait_ready(30)
        assert server.url == "http://127.0.0.1:5"
    assert (data_dir / "server.log").read_text().startswith("no json\n")
    assert [path.name for path in data_dir.iterdir()] == ["server.log"]


def test_a_server_that_ends_early_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("of an earlier start\n")
    with (
        Server(tmp_path, 0, command=python("print('the disk is on fire'); exit(3)")) as server,
        pytest.raises(CliError, match=r"exit code 3\nThe end of the server's log:\n  the disk is on fire$"),
    ):
        server.wait_ready(30)


def test_why_a_server_does_not_start_comes_first(tmp_path: Path) -> None:
    broken = a_server('{"event": "cannot_start", "error": "No executors."}', then="sys.exit(1)")
    with (
        Server(tmp_path, 0, command=broken) as server,
        pytest.raises(CliError, match=r"^the server did not start: No executors\.$"),
    ):
        server.wait_ready(30)
    gives_up = a_server(
        "much", '{"event": "giving_up", "reason": "the data directory is gone"}', then="sys.exit(66)"
    )
    with (
        Server(tmp_path, 0, command=gives_up) as server,
        pytest.raises(
            CliError, match=r"^the server ended with exit code 66: the data directory is gone\nThe end of"
        ),
    ):
        server.wait_ready(30)


def test_a_port_that_was_taken_before_the_server_had_it_gives_way_to_any_other(tmp_path: Path) -> None:
    taken = a_server(
        '{"event": "cannot_start", "error": "Cannot listen on 127.0.0.1:1 (Address already in use)."}',
        then="sys.exit(1)",
    )
    ready = a_server('{"event": "ready", "url": "http://127.0.0.1:5"}', then="signal.pause()")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    server = Server(tmp_path, port, command=taken)
    with server:
        server._command = ready
        server.wait_ready(30)
        assert (server.wanted_port, server.port) == (port, 0)
        assert server.url == "http://127.0.0.1:5"


def test_a_folder_that_another_server_uses_is_said_so_and_its_log_left_alone(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("of the other\n")
    used = a_server(
        json.dumps(
            {"event": "cannot_start", "error": f"{tmp_path} is in use by another penstock server. Stop it."}
        ),
        then="sys.exit(1)",
    )
    with (
        Server(tmp_path, 0, command=used) as server,
        pytest.raises(CliError, match=f"^{tmp_path} is in use by another server; stop it, or give --data-dir$"),
    ):
        server.wait_ready(30)
    assert [path.name for path in tmp_path.iterdir()] == ["server.log"]
    assert (tmp_path / "server.log").read_text() == "of the other\n"


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = run("demo", "--data-dir", "file", "--port", "0")
    assert outcome.code == 1
    assert outcome.err == "error: cannot make ./file (Not a directory); give --data-dir\n"
    outcome = run("demo", "--data-dir", "file/below")
    assert outcome.err == "error: cannot make ./file/below (Not a directory); give --data-dir\n"


def test_the_servers_children_end_with_it(tmp_path: Path) -> None:
    reading, writing = socket.socketpair()
    # Whoever holds `writing` is alive; when the last one is gone, `reading` sees its end.
    code = "import os, signal; os.fork(); signal.pause()"

    real = subprocess.Popen
    with reading, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            subprocess, "Popen", lambda *args, **kwargs: real(*args, pass_fds=(writing.fileno(),), **kwargs)
        )
        with Server(tmp_path, 0, command=python(code)) as server:
            writing.close()
            assert server.is_running()
        assert server.exit_code not in (None, 0)
        reading.settimeout(10)
        assert reading.recv(1) == b""


# The story, told to a server that is not there


class FakePenstock:
    """Answers as the API does and writes each batch into a file, `repeat` times."""

    def __init__(self, data_dir: Path, repeat: int = 1) -> None:
        self.data_dir, self.repeat = data_dir, repeat
        self.pipelines: dict[str, Any] = {}
        self.files = 0

    def answer(self, request: Any) -> tuple[int, Any]:
        if request.path.startswith("/ingest/"):
            [pipeline] = self.pipelines.values()
            folder = self.data_dir / "buckets" / pipeline["destination"]["path"]["bucket"]
            for _ in range(self.repeat):
                write_file(folder, f"01{self.files:03d}", request.body)
                self.files += 1
            return 200, {"success": True, "result": {"committed": len(request.body)}}
        if request.method == "POST":
            self.pipelines[request.body["name"]] = request.body | {"id": "0e00c5ff", "endpoint": "elsewhere"}
        name = request.body["name"] if request.method == "POST" else request.path.rpartition("/")[2]
        if name in self.pipelines:
            return 200, {"success": True, "result": self.pipelines[name]}
        return 404, {"success": False, "errors": [{"code": 1000, "message": "No such pipeline"}]}


class FakeProcess:
    def __init__(self, url: str, data_dir: Path) -> None:
        self.url, self.log = url, data_dir / "server.log"
        self.port = self.wanted_port = 8787

    def is_running(self) -> bool:
        return True

    def wait_ready(self, seconds: float) -> None:
        pass

    def log_tail(self) -> str:
        return ""


@pytest.fixture
def data_dir(server: Any, write_credentials: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(story, "BATCH_SECONDS", 0)
    monkeypatch.setattr(story, "FILES_SECONDS_MAX", 0)
    return write_credentials("http://127.0.0.1:1").parent


def tell(server: Any, data_dir: Path, *, once: bool = False) -> Any:
    return story.tell(FakeProcess(server.url, data_dir), data_dir, once=once)  # type: ignore[arg-type]


def test_the_story_shows_files_a_record_a_query_and_what_to_type(
    server: Any, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = FakePenstock(data_dir).answer
    arrivals, records = tell(server, data_dir)
    story.check(arrivals, records)
    out = capsys.readouterr().out
    assert "600 committed" in out
    assert "01005.json.gz" in out
    assert re.search('^  {\n    "id": "20', out, re.MULTILINE)
    assert "read_json_auto(" in out
    assert f"""curl {server.url}/ingest/0e00c5ff -d '[{{"event":"page_view","user":"u1"}}]'""" in out
    assert f"zcat {data_dir}/buckets/clickstream/event_date=*/hr=*/*.json.gz" in out
    assert out.splitlines()[-1] == f"  curl {server.url}/metrics"


def test_what_to_type_works_in_any_folder(
    server: Any, data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data_dir.parent)
    script = data_dir.parent / "penstock"
    script.touch()
    monkeypatch.setattr(sys, "argv", ["./penstock", "demo"])
    server.answer = FakePenstock(data_dir).answer
    tell(server, Path(data_dir.name))
    lines = capsys.readouterr().out.partition("Try it yourself")[2]
    assert f"{script} pipelines list --data-dir {data_dir}" in lines
    assert f"zcat {data_dir}/buckets/" in lines


def test_once_there_is_nothing_left_to_type(
    server: Any, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = FakePenstock(data_dir).answer
    tell(server, data_dir, once=True)
    out = capsys.readouterr().out
    assert "curl" not in out and "zcat" not in out


def test_the_story_told_again_uses_the_pipeline_that_is_there(
    server: Any, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = FakePenstock(data_dir).answer
    tell(server, data_dir)
    tell(server, data_dir)
    assert "600 records arrived, and 600 from before" in capsys.readouterr().out


def test_a_record_that_arrives_twice_fails_the_story(server: Any, data_dir: Path) -> None:
    server.answer = FakePenstock(data_dir, repeat=2).answer
    with pytest.raises(CliError, match="of 600 records 0 are missing, 600 came twice"):
        tell(server, data_dir)


def test_records_that_never_arrive_fail_the_story(server: Any, data_dir: Path) -> None:
    server.answer = FakePenstock(data_dir, repeat=0).answer
    with pytest.raises(CliError, match="of 600 records 600 are missing"):
        tell(server, data_dir)


def test_a_pipeline_that_was_changed_to_other_files_is_refused(server: Any, data_dir: Path) -> None:
    fake = FakePenstock(data_dir)
    fake.pipelines["clickstream"] = {"id": "1", "destination": {"compression": {"type": "deflate"}}}
    server.answer = fake.answer
    with pytest.raises(CliError, match="compression deflate"):
        tell(server, data_dir)
