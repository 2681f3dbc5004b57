"""The operator's view: objects listed, described and queried, without waking or changing any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock import AlarmInfo, Context, DurableObject, Request, Response
from penstock.apps import Application
from penstock.base.limits import Limits

from .conftest import MakeFace
from .harness import ACCOUNT, Answer, Face

NAMESPACES = f"/client/v4/accounts/{ACCOUNT}/workers/durable_objects/namespaces"
HOUR_MS = 3_600_000


class Notes(DurableObject):
    def __init__(self, ctx: Context, env: Any) -> None:
        super().__init__(ctx, env)
        if ctx.id.name == "stillborn" and env.get("broken"):
            raise ValueError("cannot start")
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, note)")

    async def fetch(self, request: Request) -> Response:
        match request.path:
            case "/alarm":
                self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + HOUR_MS)
            case "/alarm-now":
                self.ctx.storage.set_alarm(0)
            case "/fail":
                raise ValueError("a bug\x1b[31m")
            case _:
                self.ctx.storage.sql.exec("INSERT INTO notes (note) VALUES (?1)", request.body)
        return Response()

    async def alarm(self, info: AlarmInfo) -> None:
        raise ValueError("no alarm today")


ENV: dict[str, bool] = {}


@pytest.fixture
def face(make_face: MakeFace) -> Face:
    ENV.clear()
    return make_face(application=Application("shop/app.py", (Notes,), env=ENV))


def note(face: Face, name: str = "a", path: str = "", body: bytes = b"x") -> Answer:
    headers = {"authorization": "Bearer the-token"}
    return face.request("POST", f"/objects/Notes/{name}{path}", body, headers)


def listed(face: Face, query: str = "") -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = face.control("GET", f"{NAMESPACES}/Notes/objects{query}").result
    return result


def described(face: Face, name: str) -> dict[str, Any]:
    [found] = listed(face, f"?name={name}")
    again = face.control("GET", f"{NAMESPACES}/Notes/objects/{found['id']}").result
    assert again | {"last_active_ms": 0} == found | {"last_active_ms": 0}  # it is told by two clocks
    return found


def query(face: Face, sql: str, name: str = "a", **more: object) -> Answer:
    id = described(face, name)["id"]
    return face.control("POST", f"{NAMESPACES}/Notes/objects/{id}/query", {"sql": sql, **more})


def test_classes_are_listed_the_servers_own_among_them(face: Face) -> None:
    answer = face.control("GET", NAMESPACES)
    assert {(n["class"], n["id"], n["script"]) for n in answer.result} == {
        ("Coordinator", "Coordinator", "penstock"),
        ("IdempotencyKeys", "IdempotencyKeys", "penstock"),
        ("Notes", "Notes", "shop/app.py"),
        ("Registry", "Registry", "penstock"),
        ("StreamShard", "StreamShard", "penstock"),
        ("TokenRegistry", "TokenRegistry", "penstock"),
    }
    assert answer.json["result_info"] == {"page": 1, "per_page": 20, "count": 6, "total_count": 6}
    assert [n["class"] for n in face.control("GET", f"{NAMESPACES}?page=2&per_page=5").result] == ["TokenRegistry"]


def test_objects_are_listed_page_by_page_with_their_names(face: Face) -> None:
    assert listed(face) == []
    names = [f"n{number}" for number in range(7)]
    for name in names:
        note(face, name)
    seen, cursor = [], ""
    while True:
        answer = face.control("GET", f"{NAMESPACES}/Notes/objects?limit=3&cursor={cursor}")
        seen += answer.result
        cursor = answer.json["result_info"]["cursor"]
        assert answer.json["result_info"]["cursors"] == {"after": cursor}
        if not cursor:
            break
    assert [found["id"] for found in seen] == sorted(found["id"] for found in seen)
    assert sorted(found["name"] for found in seen) == names
    assert all(found["hasStoredData"] and found["active"] for found in seen)


def test_an_object_is_described(face: Face) -> None:
    note(face)
    found = described(face, "a")
    assert (found["name"], found["active"], found["alarm"], found["failures"]) == ("a", True, None, 0)
    assert found["size_bytes"] == size_on_disk(face.folder) > 4096
    assert 0 <= face.now_ms() - found["last_active_ms"] < 10_000
    note(face, path="/alarm")
    alarm = described(face, "a")["alarm"]
    assert alarm["at_ms"] > face.now_ms() and (alarm["retries"], alarm["failed"]) == (0, False)


def size_on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("objects/Notes/*/*"))


def test_what_fails_in_an_object_is_seen_also_if_it_does_not_start(face: Face) -> None:
    assert note(face, path="/fail").status == 500
    assert note(face, path="/fail").status == 500
    found = described(face, "a")
    assert (found["failures"], found["last_failure"]) == (2, "ValueError: a bug\x1b[31m")
    note(face, path="/alarm-now")
    face.wait(lambda: face.node.runtime.statistics.alarm_failures == 1)
    found = described(face, "a")
    assert (found["failures"], found["last_failure"]) == (3, "ValueError: no alarm today")
    assert found["alarm"]["retries"] == 1

    note(face, "stillborn", body=b"before")
    evict(face)
    ENV["broken"] = True
    assert note(face, "stillborn").status == 500
    found = described(face, "stillborn")
    assert (found["active"], found["failures"]) == (False, 1)
    assert found["last_failure"] == "ValueError: cannot start"
    rows = query(face, "SELECT CAST(note AS TEXT) FROM notes", "stillborn").result["rows"]
    assert rows == [["before"]]


def evict(face: Face) -> None:
    """Close every object, as if idle for long."""
    runtime = face.node.runtime
    for activation in list(runtime._active.values()):
        face.wait(lambda a=activation: a.is_idle)
        activation.begin_end()
        face.run(runtime._end(activation))


def test_looking_wakes_nobody(face: Face) -> None:
    note(face)
    evict(face)
    activations = face.node.runtime.statistics.activations
    found = described(face, "a")
    assert not found["active"] and found["name"] == "a"
    assert abs(face.now_ms() - found["last_active_ms"]) < 10_000
    assert query(face, "SELECT count(*) FROM notes").result["rows"] == [[1]]
    assert (face.node.runtime.active, face.node.runtime.statistics.activations) == (0, activations)
    note(face)
    assert query(face, "SELECT count(*) FROM notes").result["rows"] == [[2]]


def test_rows_come_with_columns_and_values_as_they_are(face: Face) -> None:
    note(face, body=b"\x00\xff")
    answer = query(face, "SELECT note AS n, 1, 2.5, 'é', NULL, 9007199254740993 AS big FROM notes")
    assert answer.result == {
        "columns": ["n", "1", "2.5", "'é'", "NULL", "big"],
        "rows": [[{"base64": "AP8="}, 1, 2.5, "é", None, 9007199254740993]],
        "truncated": False,
    }
    assert query(face, "SELECT * FROM notes WHERE 0").result == {
        "columns": ["id", "note"],
        "rows": [],
        "truncated": False,
    }
    assert query(face, "PRAGMA table_info(notes)").result["rows"][1][1] == "note"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO notes (note) VALUES (1)",
        "DELETE FROM notes",
        "UPDATE notes SET note = 1",
        "DROP TABLE notes",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "ATTACH '/tmp/x.db' AS x",
        "VACUUM",
        "VACUUM INTO '/tmp/penstock-test-copy.db'",
        "PRAGMA query_only = 0",
        "PRAGMA journal_mode = delete",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA writable_schema = 1",
        "BEGIN IMMEDIATE",
        "SAVEPOINT a",
        "REINDEX",
        "ANALYZE",
        "WITH a AS (SELECT 1) DELETE FROM notes",
        "SELECT 1; DELETE FROM notes",
        "SELECT 1; SELECT 2",
        "SELECT load_extension('x')",
        "SELECT nothing FROM nowhere",
        "SELECT",
        "",
        "-- a comment",
        "SELECT ?1 + :x FROM notes WHERE id = ",
    ],
)
def test_whatever_is_not_one_select_is_refused_and_changes_nothing(face: Face, sql: str) -> None:
    note(face)
    assert query(face, sql).control_error[0] == 400
    assert query(face, "SELECT count(*) FROM notes").result["rows"] == [[1]]
    assert note(face).status == 200  # the object is not disturbed
    assert [found["name"] for found in listed(face)] == ["a"]


def test_rows_bytes_and_time_have_a_bound(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.objects.inspection.QUERY_MS_MAX", 50)
    note(face)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150) SELECT i FROM n"
    answer = query(face, numbers).result
    assert (len(answer["rows"]), answer["truncated"]) == (100, True)
    assert len(query(face, numbers, limit=1000).result["rows"]) == 150
    answer = query(face, "WITH n(i) AS (VALUES (1), (2), (3)) SELECT zeroblob(2000000) FROM n").result
    assert (len(answer["rows"]), answer["truncated"]) == (2, True)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    status, _, message = query(face, endless).control_error
    assert (status, message) == (400, "The query took more than 50 ms. Ask for less.")


@pytest.mark.parametrize(
    "body",
    [{}, {"sql": 1}, {"sql": "SELECT 1", "limit": 0}, {"sql": "SELECT 1", "limit": 1001}, {"sql": "x" * 100_001}],
)
def test_a_query_that_is_none_is_refused(face: Face, body: object) -> None:
    note(face)
    id = described(face, "a")["id"]
    answer = face.control("POST", f"{NAMESPACES}/Notes/objects/{id}/query", body)
    assert answer.control_error[:2] == (400, 10077)


def test_what_there_is_not_is_not_found_and_not_made(face: Face) -> None:
    for path, status, code in (
        ("/Nothing/objects", 404, 10066),
        (f"/Notes/objects/{'0' * 64}", 404, 10078),
        ("/Notes/objects/..%2f..", 404, 7003),
        ("/Notes/objects/a", 400, 10077),
        ("/Notes/objects?limit=0", 400, 10077),
        ("/Notes/objects?cursor=x", 400, 10077),
        ("?page=0", 400, 10077),
    ):
        assert face.control("GET", NAMESPACES + path).control_error[:2] == (status, code), path
    assert listed(face, "?name=nobody") == []
    body = {"sql": "SELECT 1"}
    answer = face.control("POST", f"{NAMESPACES}/Notes/objects/{'0' * 64}/query", body)
    assert answer.control_error[:2] == (404, 10078)
    assert size_on_disk(face.folder) == 0


def test_calls_failures_and_active_objects_are_counted_by_class(make_face: MakeFace) -> None:
    face = make_face(Limits(), Application("app.py", (Notes,), env={}))
    note(face, "a")
    note(face, "b")
    note(face, "b", "/fail")
    text = face.get("/metrics").body.decode()
    assert 'penstock_class_objects_active{class="Notes",executor="0"} 2.0' in text
    assert 'penstock_class_calls_total{class="Notes",executor="0"} 3.0' in text
    assert 'penstock_class_failures_total{class="Notes",executor="0"} 1.0' in text
    assert 'penstock_class_calls_total{class="Registry",executor="0"} 0.0' in text
