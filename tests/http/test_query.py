"""SQL over a pipeline's records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.s3 import WRITER, S3Server

from penstock.pipelines.query import process, queries, sources

from .harness import ACCOUNT, BUCKET, PIPELINES, TOKEN, Answer, Face, pipeline_body

QUERY = f"/client/v4/accounts/{ACCOUNT}/query"
#: Each record chooses its partition by itself.
OWN_TIME = {"partition_time": {"field": "at"}, "batch": {"max_rows": 1}}


def ask(face: Face, sql: str, **more: Any) -> Answer:
    return face.control("POST", QUERY, {"sql": sql, **more})


def rows(face: Face, sql: str, **more: Any) -> Any:
    return ask(face, sql, **more).result["rows"]


def problem(answer: Answer) -> str:
    return answer.control_error[2]


def deliver(face: Face, pipeline: str, *records: Any) -> None:
    """Into a file of its own each, for pipelines with `max_rows` 1."""
    for record in records:
        assert face.ingest(pipeline, [record]).status == 200
    face.wait_delivered()


@pytest.fixture
def clicks(face: Face) -> str:
    id = face.create(**OWN_TIME)
    deliver(
        face,
        id,
        {"n": 1, "at": "2026-11-23T14:05:00Z", "event": "view"},
        {"n": 2, "at": "2026-11-23T15:00:00Z", "event": "click"},
        {"n": 3.5, "at": "2026-11-24T15:30:00Z", "user": {"id": "u1"}},
    )
    return id


def test_each_delivered_record_is_a_row_and_partitions_are_columns(face: Face, clicks: str) -> None:
    found = ask(face, "SELECT n, event, event_date, hr, clicks.user->>'id' AS id FROM clicks ORDER BY n").result
    assert [column["name"] for column in found["columns"]] == ["n", "event", "event_date", "hr", "id"]
    assert [column["type"] for column in found["columns"]] == ["DOUBLE", "VARCHAR", "DATE", "BIGINT", "VARCHAR"]
    assert found["rows"] == [
        [1.0, "view", "2026-11-23", 14, None],
        [2.0, "click", "2026-11-23", 15, None],
        [3.5, None, "2026-11-24", 15, "u1"],
    ]
    assert found["truncated"] is False
    assert found["files"] == {"read": 3, "left_out": 0, "missing": 0}


@pytest.mark.parametrize(
    ("where", "n"),
    [
        ("event_date = '2026-11-24'", [3.5]),
        ("event_date = DATE '2026-11-24' AND n > 0", [3.5]),
        ("hr = 14", [1]),
        ("c.hr BETWEEN 0 AND 14", [1]),
        ("hr IN (14, 99) OR event_date > '2026-11-23'", [1, 3.5]),
        ("NOT hr = 15 AND event = 'view'", [1]),
        ("hr = 3", []),
    ],
)
def test_files_of_other_partitions_are_not_opened(face: Face, clicks: str, where: str, n: list[float]) -> None:
    sql = f"SELECT n FROM clicks AS c WHERE {where} ORDER BY n"
    expected = [[value] for value in n]
    assert rows(face, sql) == expected
    wanted = {1: "hr=14", 3.5: "event_date=2026-11-24"}
    keep = {wanted[value] for value in n} or {"event_date=2026-11-24"}  # one for its columns
    for path in face.files():
        if not any(part in str(path) for part in keep):
            path.write_bytes(b"no gzip")
    assert rows(face, sql) == expected
    assert "gzip" in problem(ask(face, "SELECT count(*) FROM clicks")).lower()


def test_a_condition_that_may_mean_something_else_prunes_nothing(face: Face, clicks: str) -> None:
    for sql, expected in (
        ("SELECT count(*) FROM clicks WHERE hr = 14 OR n = 3.5", 2),
        ("SELECT count(*) FROM clicks a LEFT JOIN clicks b ON a.n = b.n AND b.hr = 14 WHERE b.hr IS NULL", 2),
        ("WITH clicks AS (SELECT 14 AS hr) SELECT count(*) FROM clicks WHERE hr = 15", 0),
        ("WITH clicks AS (SELECT 14 AS hr FROM clicks) SELECT count(*) FROM clicks WHERE hr = 15", 0),
        ("WITH x AS (SELECT 1 AS n) SELECT count(*) FROM Clicks JOIN x USING (n), main.clicks WHERE x.n = 1", 3),
        ("SELECT count(*) FROM (SELECT 15 AS hr) o, clicks WHERE o.hr = 15", 3),
        ("SELECT (SELECT count(*) FROM clicks c WHERE c.hr = o.hr) FROM (SELECT 15 AS hr) o", 2),
        ("SELECT count(*) FROM clicks WHERE event_date = '2026-11-23' AND hr = (SELECT 15)", 1),
    ):
        assert rows(face, sql) == [[expected]], sql


def test_names_with_hyphens_are_quoted_or_have_underscores(face: Face) -> None:
    deliver(face, face.create("my-clicks", batch={"max_rows": 1}), {"n": 1})
    assert rows(face, 'SELECT n FROM "my-clicks"') == rows(face, "SELECT n FROM my_clicks") == [[1]]
    deliver(face, face.create("other", batch={"max_rows": 1}), {"n": 1, "m": 2})
    assert rows(face, "SELECT m FROM my_clicks JOIN other USING (n)") == [[2]]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "deflate"])
def test_every_compression_is_read(face: Face, compression: str) -> None:
    id = face.create(batch={"max_rows": 1}, compression={"type": compression})
    deliver(face, id, {"n": 1}, {"n": 2})
    assert rows(face, "SELECT sum(n), count(DISTINCT hr) FROM clicks") in ([[3, 1]], [[3, 2]])
    assert not list((face.folder / "queries" / "0").iterdir())


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "deflate"])
@pytest.mark.parametrize("filename", ["${slug}", "${slug}.GZ", "${slug}.zst"])
def test_files_are_read_whatever_their_names_say_of_their_compression(
    face: Face, compression: str, filename: str
) -> None:
    layout = {"path": {"bucket": BUCKET, "filename": filename}, "compression": {"type": compression}}
    id = face.create(batch={"max_rows": 1}, **layout)
    deliver(face, id, {"n": 1})
    assert face.control("PUT", f"{PIPELINES}/clicks", pipeline_body(**layout)).status == 200
    assert face.ingest(id, [{"n": 2}]).status == 200
    assert rows(face, "SELECT n FROM clicks ORDER BY n", live=True) == [[1], [2]]


def test_generations_with_other_layouts_are_one_table(face: Face) -> None:
    id = face.create(batch={"max_rows": 1})
    deliver(face, id, {"n": 1})
    for layout in ({"filepath": "year=${year}"}, {"filepath": "plain"}, {"prefix": "odd[name]"}):
        body = pipeline_body(path={"bucket": BUCKET, **layout}, batch={"max_rows": 1})
        assert face.control("PUT", f"{PIPELINES}/clicks", body).status == 200
        deliver(face, id, {"n": 1, "extra": True})
    assert rows(face, "SELECT sum(n), count(hr), count(year), count(extra) FROM clicks") == [[4, 2, 1, 3]]


def test_dead_letters_are_no_records(face: Face, clicks: str) -> None:
    deliver(face, clicks, {"no": "time"})
    assert len(face.files()) == 4
    assert rows(face, "SELECT count(*) FROM clicks") == [[3]]


def test_live_adds_what_is_in_no_file_yet_and_each_record_once(face: Face) -> None:
    id = face.create(batch={"max_rows": 3})
    for number in range(10):
        face.ingest(id, [{"n": number}])
    face.wait(lambda: len(face.files()) == 3)
    assert rows(face, "SELECT count(*), count(DISTINCT n) FROM clicks") == [[9, 9]]
    found = rows(face, "SELECT count(*), count(DISTINCT n), count(hr) FROM clicks", live=True)
    assert found == [[10, 10, 10]]


def test_live_is_exact_at_every_moment_of_a_delivery(face: Face) -> None:
    id = face.create(batch={"max_rows": 7}, metadata={"shards": 3})
    for number in range(60):
        face.ingest(id, [{"n": number}])
        if number % 6 == 5:
            found = rows(face, "SELECT count(*), count(DISTINCT n) FROM clicks", live=True)
            assert found == [[number + 1, number + 1]]


def test_records_of_any_shape_are_rows_and_none_keeps_others_from_being_read(face: Face) -> None:
    id = face.create(batch={"max_rows": 1}, compression={"type": "none"})
    deep = b'{"k":' * 300 + b"1" + b"}" * 300
    shapes = [
        b'{"n":1,"text":"2026-11-23","flag":true,"list":[1,"x"],"mixed":1,"none":null,"hr":"hers"}',
        b'{"n":-2,"text":null,"flag":false,"mixed":"a","A":1,"a":2}',
        b'{"n":9223372036854775808,"twice":1,"twice":2,"inf":1e999,"real":1,"":0,"x\\u0000y":0}',
        b'{"a/b~c.d\'\\"":7,"real":2.5,"deep":' + deep + b"}",
        b"{}",
    ]
    for shape in shapes:
        assert face.ingest(id, b"[" + shape.replace(b"\\\\", b"\\") + b"]").status == 200
    face.wait_delivered()
    described = dict(rows(face, "SELECT column_name, column_type FROM (DESCRIBE clicks)"))
    assert described == {
        "n": "HUGEINT",
        "text": "VARCHAR",
        "flag": "BOOLEAN",
        "list": "JSON",
        "mixed": "JSON",
        "none": "JSON",
        "A": "BIGINT",
        "twice": "BIGINT",
        "inf": "DOUBLE",
        "real": "DOUBLE",
        "deep": "JSON",
        "a/b~c.d'\"": "BIGINT",
        "event_date": "DATE",
        "hr": "BIGINT",
    }
    assert rows(face, "SELECT sum(n), count(n), sum(real), count(none), count(inf), count(*) FROM clicks") == [
        [9223372036854775807, 3, 3.5, 0, 1, 5]
    ]
    assert rows(face, "SELECT list->>1, mixed->>'$' FROM clicks WHERE n = 1") == [["x", "1"]]
    assert rows(face, "SELECT sum(n) * 10 FROM clicks") == [[92233720368547758070]]
    assert rows(face, """SELECT "a/b~c.d'\"\"" FROM clicks WHERE deep IS NOT NULL""") == [[7]]


def test_a_pipeline_without_records_says_so(face: Face) -> None:
    id = face.create()
    face.ingest(id, [{"n": 1}])
    assert "--live" in problem(ask(face, "SELECT * FROM clicks"))
    assert rows(face, "SELECT n FROM clicks", live=True) == [[1]]
    face.create("empty")
    assert "has no records yet" in problem(ask(face, "SELECT * FROM empty", live=True))


def test_files_that_somebody_removed_are_counted_and_left_out(face: Face, clicks: str) -> None:
    face.files()[0].unlink()
    found = ask(face, "SELECT count(*) FROM clicks").result
    assert (found["rows"], found["files"]["missing"], found["files"]["read"]) == ([[2]], 1, 2)
    for path in face.files():
        path.unlink()
    assert "in the bucket any more" in problem(ask(face, "SELECT count(*) FROM clicks"))


def test_an_unknown_pipeline_says_which_there_are(face: Face) -> None:
    assert problem(ask(face, "SELECT * FROM nothing")).endswith("There is none yet.")
    face.create("clicks")
    face.create("page-views")
    status, code, message = ask(face, "SELECT * FROM nothing").control_error
    assert (status, code) == (404, 1000)
    assert message == """There is no pipeline 'nothing'. There are clicks, "page-views"."""


def test_duckdbs_own_words_are_the_error_of_sql_that_is_wrong(face: Face, clicks: str) -> None:
    for sql, part in (
        ("SELEC 1", "syntax error"),
        ("SELECT nix FROM clicks", 'Referenced column "nix" not found'),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("", "0 statements"),
    ):
        answer = ask(face, sql)
        assert answer.status == 400 and part in problem(answer), (sql, answer)


@pytest.mark.parametrize(
    "body", [{"sql": 1}, {"sql": "SELECT 1", "limit": 0}, {"sql": "SELECT 1", "limit": 10_001}, {"x": 1}, {}]
)
def test_a_body_that_is_no_query_is_refused(face: Face, body: Any) -> None:
    assert face.control("POST", QUERY, body).status == 400


@pytest.mark.parametrize("body", [b"", b'{"sql":"\xff"}', b'{"sql":"\\ud800"}', b"[" * 5_000])
def test_a_body_that_is_no_json_is_refused(face: Face, body: bytes) -> None:
    answer = face.request("POST", QUERY, body, {"authorization": f"Bearer {TOKEN}"})
    assert answer.status == 400


def test_values_of_every_kind_are_json(face: Face) -> None:
    sql = (
        "SELECT 1::HUGEINT, 1.50::DECIMAL(9,2), 'x'::BLOB, TIMESTAMP '2026-01-02 03:04:05', INTERVAL 1 DAY,"
        " [1, NULL], {'a': 'é'}, MAP {1: 2}, 'NaN'::DOUBLE, uuid '00000000-0000-0000-0000-000000000001', NULL"
    )
    assert rows(face, sql) == [
        [
            *(1, "1.50", "eA==", "2026-01-02T03:04:05", "P1D", [1, None], {"a": "é"}, {"1": 2}, None),
            "00000000-0000-0000-0000-000000000001",
            None,
        ]
    ]


def test_i6_rows_are_bounded_by_number_and_by_bytes(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask(face, "SELECT range FROM range(1000)", limit=10).result
    assert (len(found["rows"]), found["truncated"]) == (10, True)
    assert ask(face, "SELECT range FROM range(10)", limit=10).result["truncated"] is False
    monkeypatch.setattr(queries, "RECORDS_QUERY_RESULT_BYTES_MAX", 1_000)
    found = ask(face, "SELECT repeat('x', 300) FROM range(10)").result
    assert (len(found["rows"]), found["truncated"]) == (3, True)


def test_i6_what_a_query_copies_is_bounded(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    face.ingest(face.create(), [{"n": "x" * 2_000}])
    monkeypatch.setattr(sources, "QUERY_COPIED_BYTES_MAX", 1_000)
    answer = ask(face, "SELECT * FROM clicks", live=True)
    assert answer.status == 413 and "fewer partitions" in problem(answer)
    assert not list((face.folder / "queries" / "0").iterdir())


def test_i6_queries_of_an_executor_are_bounded(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "RECORDS_QUERIES_MAX", 0)
    answer = ask(face, "SELECT 1")
    assert answer.status == 429 and "retry-after" in answer.headers


def test_of_a_bucket_elsewhere_only_the_files_that_are_needed_are_fetched(
    face: Face, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3_server.make_bucket()
    credentials = {
        "endpoint": s3_server.endpoint,
        "access_key_id": WRITER.access_key_id,
        "secret_access_key": WRITER.secret_access_key,
    }
    id = face.create(**OWN_TIME, path={"bucket": bucket}, credentials=credentials)
    deliver(face, id, *({"n": hour, "at": f"2026-11-23T{hour:02}:00:00Z"} for hour in range(4)))
    assert rows(face, "SELECT sum(n) FROM clicks") == [[6]]
    monkeypatch.setattr(sources, "QUERY_COPIED_BYTES_MAX", 100)  # one file, not two
    found = ask(face, "SELECT n, hr FROM clicks WHERE hr = 2").result
    assert found["rows"] == [[2, 2]]
    assert found["files"] == {"read": 1, "left_out": 3, "missing": 0}
    refused = ask(face, "SELECT sum(n) FROM clicks")
    assert refused.status == 413
    assert WRITER.secret_access_key.encode() not in refused.body


# -- G9: what a query must not do ---------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("secret") / "secret.json"
    path.write_text('{"canary": 1}\n')
    yield path
    assert sorted(path.parent.iterdir()) == [path]  # nothing was written beside it


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_json('{path}')",
        "SELECT * FROM read_csv('{path}')",
        "SELECT * FROM read_text('{path}')",
        "SELECT * FROM read_blob('{path}')",
        "SELECT * FROM read_parquet('{path}')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM sniff_csv('{path}')",
        "SELECT * FROM '{path}'",
        "SELECT * FROM read_text('{bucket}/../credentials.toml')",
        "SELECT * FROM clicks, read_json('{path}')",
        "SELECT (SELECT content FROM read_text('{path}'))",
        "SELECT * FROM query('SELECT * FROM read_text(''{path}'')')",
        "SELECT * FROM query_table('{path}')",
        "SELECT * FROM read_json('http://127.0.0.1:1/x.json')",
        "SELECT * FROM read_parquet('s3://bucket/key')",
        "SELECT * FROM sqlite_scan('{path}', 't')",
        "SELECT getenv('PATH')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{path}'')'))",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY clicks FROM '{path}'",
        "EXPORT DATABASE '{folder}/out'",
        "IMPORT DATABASE '{folder}'",
        "ATTACH '{folder}/out.db'",
        "DETACH memory",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{path}'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "SET memory_limit = '100GB'",
        "PRAGMA enable_external_access = true",
        "PRAGMA database_list",
        "CALL enable_logging(storage = 'file', storage_path = '{folder}/log')",
        "CHECKPOINT",
        "USE memory",
        "CREATE TABLE t AS SELECT 1",
        "CREATE OR REPLACE VIEW clicks AS SELECT 1",
        "DROP VIEW clicks",
        "CREATE SECRET (TYPE s3, KEY_ID 'a', SECRET 'b')",
        "EXPLAIN ANALYZE SELECT 1",
        "PREPARE p AS SELECT 1",
        "SELECT * FROM questions",
        "SELECT 1; COPY (SELECT 1) TO '{folder}/out.csv'",
    ],
)
def test_G9_a_query_reaches_no_file_no_network_and_no_setting(
    face: Face, clicks: str, secret: Path, sql: str
) -> None:
    text = sql.format(path=secret, folder=secret.parent, bucket=face.folder / "buckets")
    answer = ask(face, text)
    assert answer.status in (400, 404), answer
    assert b"canary" not in answer.body
    assert rows(face, "SELECT count(*) FROM clicks") == [[3]]


def test_G9_a_query_that_takes_too_long_is_ended(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    started = _started(monkeypatch)
    monkeypatch.setattr(queries, "RECORDS_QUERY_MS_MAX", 700)
    answer = ask(face, "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range = 3")
    assert answer.status == 400 and "took longer than" in problem(answer)
    [one] = started
    assert not Path(f"/proc/{one.pid}").exists()
    assert not list((face.folder / "queries" / "0").iterdir())


def test_G9_a_query_that_takes_too_much_memory_is_refused_and_the_executor_lives(face: Face) -> None:
    for sql in (
        "SELECT list(range) FROM range(200000000)",
        "SELECT length(repeat('x', 3000000000))",
        "SELECT string_agg(repeat('x', 1000000), '') FROM range(100000)",
    ):
        answer = ask(face, sql)
        assert answer.status == 400 and "emory" in problem(answer), (sql, answer)
    assert rows(face, "SELECT 1") == [[1]]


def test_a_query_process_that_dies_is_an_error_that_says_so(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    real = process.OsQueryProcess.ask

    async def dying(self: process.OsQueryProcess, question: Any) -> Any:
        self._process.kill()
        return await real(self, question)

    monkeypatch.setattr(process.OsQueryProcess, "ask", dying)
    assert "process of the query ended" in problem(ask(face, "SELECT 1"))


def _started(monkeypatch: pytest.MonkeyPatch) -> list[process.OsQueryProcess]:
    started: list[process.OsQueryProcess] = []
    real = process.OsQueryProcess.__init__

    def noted(self: process.OsQueryProcess, *arguments: Any) -> None:
        real(self, *arguments)
        started.append(self)

    monkeypatch.setattr(process.OsQueryProcess, "__init__", noted)
    return started


def test_the_answer_is_json_as_it_says(face: Face) -> None:
    answer = ask(face, 'SELECT \'a"b\' AS "c""d"')
    assert json.loads(answer.body)["result"]["columns"] == [{"name": 'c"d', "type": "VARCHAR"}]
    assert answer.headers["content-type"] == "application/json"
