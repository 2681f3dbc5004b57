"""A user's application on a real server: reached over every executor, changed by migrations, looked at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import quote

import pytest

from .conftest import Serve
from .harness import Answer, Server, ask

COUNTER = """
    import os
    from penstock import DurableObject, Migration, Request, Response

    loaded_by = os.getpid()

    class {name}(DurableObject):
        def __init__(self, ctx, env):
            super().__init__(ctx, env)
            self.sql = ctx.storage.sql
            self.sql.exec("CREATE TABLE IF NOT EXISTS counts (n)")

        async def fetch(self, request: Request) -> Response:
            if request.path == "/alarm":
                self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + int(request.query["ms"][0]))
            elif request.method == "POST":
                self.sql.exec("INSERT INTO counts VALUES (1)")
            counts = {{"count": self.count(), "alarms": self.count(2)}}
            return Response.json(counts | {{"by": loaded_by, "pid": os.getpid()}})

        def count(self, n: int = 1) -> int:
            return self.sql.exec("SELECT count(*) FROM counts WHERE n = ?1", n).one()[0]

        async def alarm(self, info) -> None:
            self.sql.exec("INSERT INTO counts VALUES (2)")

    migrations = {migrations}
"""


def write_app(folder: Path, name: str = "Counter", migrations: str = "[]", more: str = "") -> str:
    file = folder / "my_app.py"
    file.write_text(dedent(COUNTER).format(name=name, migrations=migrations) + dedent(more))
    return str(file)


def call(server: Server, method: str, object: str) -> Answer:
    return server.request(method, f"/objects/{object}", Authorization=f"Bearer {server.credentials['token']}")


def test_an_object_is_one_whichever_executor_is_asked(serve: Serve, tmp_path: Path) -> None:
    server = serve("--app", write_app(tmp_path), executors=3)
    names = [f"n/{number}" for number in range(6)]
    for round in range(1, 6):
        for name in names:  # each over a new connection
            assert call(server, "POST", f"Counter/{quote(name, safe='')}").json["count"] == round
    answers = [call(server, "GET", f"Counter/{quote(name, safe='')}").json for name in names]
    assert len({answer["pid"] for answer in answers}) > 1  # they live on several
    assert {answer["by"] for answer in answers} == {server._process.pid}  # the code ran once, before the fork
    victim = answers[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    server.wait(lambda: bool(server.lines("executor_ended", pid=victim)))
    server.wait(lambda: len(server.lines("executor_ready")) == 4)
    again = call(server, "GET", f"Counter/{quote(names[0], safe='')}").json
    assert (again["count"], again["by"]) == (5, server._process.pid) and again["pid"] != victim
    assert server.stray == []


def test_http_is_kept_whatever_the_method(serve: Serve, tmp_path: Path) -> None:
    more = """
        class Plain(DurableObject):
            async def fetch(self, request: Request) -> Response:
                return Response(b"12345", int(request.path[1:]))
    """
    server = serve("--app", write_app(tmp_path, more=more))
    token = {"Authorization": f"Bearer {server.credentials['token']}"}
    with contextlib.closing(server.connect()) as connection:
        for _ in range(2):  # over one connection: no answer spills into the next
            for method in ("GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND"):
                answer = ask(connection, method, "/objects/Plain/a/200", None, token)
                assert (answer.status, answer.headers["content-length"]) == (200, "5")
                assert answer.body == (b"" if method == "HEAD" else b"12345")
            for status in (204, 304, 404, 599):
                answer = ask(connection, "GET", f"/objects/Plain/a/{status}", None, token)
                assert (answer.status, answer.body) == (status, b"" if status in (204, 304) else b"12345")


def test_an_application_sees_no_file_of_the_server_when_it_is_loaded(serve: Serve, tmp_path: Path) -> None:
    more = """
        import sys
        open_files = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                open_files.append(os.readlink(f"/proc/self/fd/{fd}"))
            except FileNotFoundError:
                pass  # the listing itself
        print(open_files, file=sys.stderr, flush=True)
    """
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("there is no /proc")
    server = serve("--app", write_app(tmp_path, more=more))
    server.wait_for("ready")
    [line] = server.stray
    assert str(server.data) not in line and "socket:" not in line and line.count("pipe:") <= 2


def refusal(server: Server) -> str:
    assert server.exit_code() == 1, server.tail
    return " ".join([*(str(line["error"]) for line in server.lines("cannot_start")), *server.stray])


def test_an_error_in_an_application_is_shown_and_the_server_does_not_start(serve: Serve, tmp_path: Path) -> None:
    file = write_app(tmp_path, more="1 / 0")
    server = serve("--app", file)
    assert server.exit_code() == 1
    text = "".join(server.stray)
    assert text.startswith(f"error: {file} cannot be imported.\n\n")
    assert f'  File "{file}", line ' in text and text.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "site-packages" not in text and "loading.py" not in text
    assert server.log == [] and not server.data.exists()  # nothing was begun


def test_the_servers_own_class_names_are_refused(serve: Serve, tmp_path: Path) -> None:
    text = refusal(serve("--app", write_app(tmp_path, "StreamShard")))
    assert "has the name of one of Penstock's own (Registry, Coordinator, StreamShard, " in text


def test_a_class_is_renamed_and_deleted_by_a_migration_and_never_without(serve: Serve, tmp_path: Path) -> None:
    server = serve("--app", write_app(tmp_path, "Old"))
    names = [str(number) for number in range(5)]
    for name in names:
        call(server, "POST", f"Old/{name}")
        call(server, "GET", f"Old/{name}/alarm?ms=1500")
    server.stop()
    for app in (["--app", write_app(tmp_path, "New")], []):
        text = refusal(serve(*app))
        assert "There are objects of Old, but the application has no such class." in text
        assert 'Migration(tag="v1", renamed={"Old": "<its new name>"}) keeps the objects' in text
    v1 = 'Migration(tag="v1", renamed={"Old": "New"})'
    server = serve("--app", write_app(tmp_path, "New", f"[{v1}]"), executors=3)
    server.wait_for("ready")
    assert server.lines("migration_applied", tag="v1")
    for name in names:
        server_answer = wait_alarm(server, f"New/{name}")
        assert (server_answer["count"], server_answer["alarms"]) == (1, 1)
    assert call(server, "GET", "Old/1").status == 404
    server.stop()
    again = "class Old(New):\n    pass\n"
    server = serve("--app", write_app(tmp_path, "New", f"[{v1}]", again))
    server.wait_for("ready")
    assert not server.lines("migration_applied")
    assert call(server, "GET", "Old/1").json["count"] == 0  # the name is free for another class
    assert call(server, "POST", "Old/1").json["count"] == 1
    assert call(server, "GET", "New/1").json["count"] == 1
    server.stop()
    v2 = 'Migration(tag="v2", deleted=["New"])'
    server = serve("--app", write_app(tmp_path, "Old", f"[{v1}, {v2}]"))
    assert call(server, "GET", "Old/1").json["count"] == 1
    assert not (server.data / "objects" / "Old").exists()  # the place that New had kept from its first name
    assert (server.data / "objects" / "Old-2").exists()


def wait_alarm(server: Server, object: str) -> dict[str, Any]:
    ends_at = time.monotonic() + 20
    while True:
        found: dict[str, Any] = call(server, "GET", object).json
        if found["alarms"]:
            return found
        assert time.monotonic() < ends_at, server.tail
        time.sleep(0.02)


def test_a_catalog_that_is_damaged_is_refused_and_left_alone(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    server.wait_for("ready")
    server.stop()
    (server.data / "classes.json").write_text("{")
    assert "classes.json is damaged" in refusal(serve())
    assert (server.data / "classes.json").read_text() == "{"


def test_the_command_shows_objects_of_every_executor(serve: Serve, tmp_path: Path) -> None:
    server = serve("--app", write_app(tmp_path), executors=3)
    names = [f"n/{number}" for number in range(8)]
    for name in names:
        call(server, "POST", f"Counter/{quote(name, safe='')}")

    def command(*words: str) -> str:
        line = [sys.executable, "-m", "penstock", "objects", *words, "--data-dir", str(server.data)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for _ in range(3):  # whichever executor is asked
        assert {found["name"] for found in json.loads(command("list", "Counter", "--json"))} == set(names)
    assert "Counter" in command("list")
    assert len(command("list", "Counter").splitlines()) == 9
    shown = dict(line.strip().split(maxsplit=1) for line in command("info", "Counter", "n/3").splitlines())
    assert (shown["Name"], shown["Active"], shown["Alarm"]) == ("n/3", "yes", "none")
    by_id = command("info", "Counter", shown["Id"], "--id")
    assert "n/3" in by_id
    for name in names:
        rows = json.loads(command("sql", "Counter", name, "SELECT sum(n) AS total FROM counts", "--json"))
        assert rows == {"columns": ["total"], "rows": [[1]], "truncated": False}
    assert command("sql", "Counter", "n/1", "SELECT n, NULL AS x, x'00ff' AS b FROM counts").split() == [
        "n",
        "x",
        "b",
        "1",
        "NULL",
        "x'00ff'",
    ]


def test_an_application_of_transforms_alone_is_served_and_starts_no_worker_unasked(
    serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "my_transforms.py"
    file.write_text("from penstock import App\napp = App()\n@app.transform('clean')\ndef clean(r): return r\n")
    server = serve("--app", str(file))
    server.wait_for("ready")
    server.stop()
    assert not server.lines("worker_started")
