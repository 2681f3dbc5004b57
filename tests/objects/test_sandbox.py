"""What the SQL of a user's object may do, and what not."""

from __future__ import annotations

from typing import Any

import apsw
import pytest

from penstock.base import limits
from penstock.base.errors import Internal, Invalid
from penstock.objects import SqlError, sandbox
from penstock.objects.sandbox import FUNCTIONS, PRAGMAS
from penstock.objects.storage import ObjectStorage, system_storage

from .box import in_object


def refused(query: str, *bindings: Any) -> str:
    """Why a query is refused; nothing of it has happened."""

    def work(storage: ObjectStorage) -> str:
        storage.kv.put("key", "value")
        storage.set_alarm(1 << 60)
        storage.sql.exec(
            "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 2); CREATE INDEX i ON t (a);"
            "CREATE VIEW v AS SELECT a FROM t;"
            "CREATE VIRTUAL TABLE f USING fts5(text); INSERT INTO f VALUES ('word')"
        )
        schema = storage.sql.exec("SELECT * FROM sqlite_schema").to_list()
        with pytest.raises(Invalid) as refusal:
            storage.sql.exec(query, *bindings).to_list()
        assert storage.sql.exec("SELECT * FROM sqlite_schema").to_list() == schema
        assert storage.kv.get("key") == "value" and storage.get_alarm() == 1 << 60
        assert storage.sql.exec("SELECT * FROM t").to_list() == [(1, 2)]
        return refusal.value.message

    return str(in_object(work))


@pytest.mark.parametrize(
    "query",
    [
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT s",
        "RELEASE _penstock_1",
        "ROLLBACK TO _penstock_1",
        "SELECT 1; COMMIT; SELECT 2",
        "/* */ COMMIT -- ;",
        "EXPLAIN COMMIT",
    ],
)
def test_transactions_are_the_runtimes(query: str) -> None:
    assert "use storage.transaction_sync" in refused(query)


@pytest.mark.parametrize("query", ["ATTACH ':memory:' AS x", "ATTACH ? AS x", "DETACH main"])
def test_an_object_has_one_database(query: str) -> None:
    assert "one database" in refused(query, *["/data/other.db"] * query.count("?"))


@pytest.mark.parametrize("query", ["VACUUM", "VACUUM INTO '/tmp/stolen.db'"])
def test_vacuum_cannot_run(query: str) -> None:
    def work(storage: ObjectStorage) -> None:
        with pytest.raises(SqlError, match="VACUUM"):
            storage.sql.exec(query)

    in_object(work)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM _penstock_alarm",
        "SELECT count(*) FROM _penstock_kv",
        "SELECT 1 FROM t WHERE EXISTS (SELECT 1 FROM _penstock_kv)",
        'SELECT * FROM main."_PENSTOCK_META"',
        "INSERT INTO _penstock_alarm VALUES (0, 1, 1, 1)",
        "REPLACE INTO _penstock_meta VALUES ('openings', 0)",
        "UPDATE _penstock_meta SET value = 0",
        "DELETE FROM _penstock_kv",
        "DROP TABLE _penstock_kv",
        "DROP TABLE IF EXISTS _penstock_alarm",
        "ALTER TABLE _penstock_kv RENAME TO kv",
        "ALTER TABLE _penstock_kv ADD COLUMN c",
        "ALTER TABLE t RENAME TO _penstock_y",
        'ALTER TABLE t RENAME TO "_Penstock_Y"',
        "ALTER TABLE f RENAME TO _penstock",
        "ALTER TABLE t RENAME COLUMN a TO _penstock_a",
        "CREATE TABLE _penstock_x (a)",
        "CREATE TABLE x AS SELECT * FROM _penstock_kv",
        "CREATE INDEX x ON _penstock_kv (value)",
        "CREATE INDEX _penstock_x ON t (a)",
        "CREATE VIEW x AS SELECT * FROM _penstock_kv",
        "CREATE TRIGGER x AFTER DELETE ON _penstock_alarm BEGIN SELECT 1; END",
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM _penstock_alarm; END",
        "CREATE TRIGGER _penstock_x AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TABLE x (a REFERENCES _penstock_kv (key) ON DELETE RESTRICT)",
        "ALTER TABLE t ADD COLUMN c REFERENCES _penstock_alarm",
        "CREATE VIRTUAL TABLE _penstock USING fts5(a)",
        "CREATE VIRTUAL TABLE x USING fts5(a, content='_penstock_kv')",
        "CREATE VIRTUAL TABLE x USING fts5vocab('_penstock_f', row)",
        "PRAGMA table_info(_penstock_kv)",
        "PRAGMA table_info('_penstock_kv')",
        'PRAGMA index_list="_penstock_kv"',
        "PRAGMA quick_check(_penstock_kv)",
        "SELECT * FROM pragma_table_info('_penstock_kv')",
    ],
)
def test_the_runtimes_tables_and_names_cannot_be_reached(query: str) -> None:
    assert "_penstock" in refused(query).lower()
    assert "runtime" in refused(query)


def test_a_table_name_that_comes_with_the_rows_reaches_none_of_the_runtimes_tables() -> None:
    assert "runtime" in refused("SELECT p.* FROM sqlite_schema s, pragma_table_info(s.name) p")


def test_the_schema_can_be_read() -> None:
    def work(storage: ObjectStorage) -> list[Any]:
        storage.sql.exec("CREATE TABLE t (a)")
        names = storage.sql.exec("SELECT name FROM sqlite_schema WHERE name NOT LIKE '_penstock%'").to_list()
        return [*names, *storage.sql.exec("SELECT name FROM sqlite_master WHERE name = '_penstock_alarm'")]

    assert in_object(work) == [("t",), ("_penstock_alarm",)]


@pytest.mark.parametrize(
    "query",
    [
        "CREATE TEMP TABLE x (a)",
        "CREATE TABLE temp.x (a)",
        "CREATE TEMPORARY VIEW x AS SELECT 1",
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE temp.x USING fts5(a)",
        "CREATE TEMP TABLE x AS SELECT 1",
    ],
)
def test_temporary_objects_are_refused(query: str) -> None:
    assert "Temporary tables" in refused(query)


@pytest.mark.parametrize("module", ["fts3", "fts4", "dbstat", "geopoly", "fts4aux"])
def test_other_virtual_tables_are_refused(module: str) -> None:
    said = refused(f"CREATE VIRTUAL TABLE x USING {module}(a, b, c)")
    assert said == f"Virtual tables of {module} are not allowed; allowed are fts5, fts5vocab, rtree, rtree_i32."


def test_virtual_tables_that_are_just_there_are_refused() -> None:
    assert "dbstat is not allowed" in refused("SELECT * FROM dbstat")


def test_full_text_search_works() -> None:
    def work(storage: ObjectStorage) -> None:
        sql = storage.sql
        sql.exec("CREATE VIRTUAL TABLE f USING fts5(text)")
        sql.exec("INSERT INTO f VALUES ('one word'), ('two words'), ('nothing')")
        assert sql.exec(
            "SELECT highlight(f, 0, '<', '>') FROM f WHERE f MATCH 'word*' ORDER BY bm25(f)"
        ).to_list() == [
            ("one <word>",),
            ("two <words>",),
        ]
        assert sql.exec("SELECT snippet(f, 0, '', '', '', 5) FROM f('two')").one() == ("two words",)
        sql.exec("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(f, row)")
        assert sql.exec("SELECT count(*) FROM vocabulary").one() == (5,)
        sql.exec("INSERT INTO f(f) VALUES ('optimize')")
        sql.exec("ALTER TABLE f RENAME TO g")
        sql.exec("DELETE FROM g WHERE g MATCH 'two'")
        assert sql.exec("SELECT * FROM g").to_list() == [("one word",), ("nothing",)]
        with pytest.raises(SqlError, match="may not be modified"):
            sql.exec("DELETE FROM g_data")
        sql.exec("DROP TABLE vocabulary; DROP TABLE g")

    in_object(work)


def test_r_trees_work() -> None:
    def work(storage: ObjectStorage) -> None:
        storage.sql.exec(
            "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1); INSERT INTO r VALUES (1, 0, 10), (2, 20, 30);"
            "CREATE VIRTUAL TABLE s USING rtree_i32(id, x0, x1); INSERT INTO s VALUES (1, 0, 10)"
        )
        assert storage.sql.exec("SELECT id FROM r WHERE x0 < 5").to_list() == [(1,)]
        assert storage.sql.exec("SELECT rtreecheck('r'), rtreecheck('s')").one() == ("ok", "ok")
        storage.sql.exec("DROP TABLE r; DROP TABLE s")

    in_object(work)


def test_the_schema_can_be_changed_in_all_ways() -> None:
    def work(storage: ObjectStorage) -> None:
        sql = storage.sql
        sql.exec("CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b, c CHECK (c > 0))")
        sql.exec("CREATE INDEX i ON t (b); CREATE VIEW v AS SELECT a, b FROM t;")
        sql.exec("CREATE TRIGGER tr AFTER INSERT ON t BEGIN UPDATE t SET b = new.b || '!' WHERE a = new.a; END")
        sql.exec("INSERT INTO t VALUES (1, 'x', 1)")
        sql.exec(
            "ALTER TABLE t RENAME COLUMN b TO d; ALTER TABLE t ADD COLUMN e DEFAULT 5; ALTER TABLE t RENAME TO u"
        )
        assert sql.exec("SELECT * FROM v").to_list() == [(1, "x!")]
        assert sql.exec("SELECT * FROM u").to_list() == [(1, "x!", 1, 5)]
        sql.exec("ALTER TABLE u DROP COLUMN c; REINDEX; ANALYZE; PRAGMA optimize")
        assert sql.exec("PRAGMA quick_check").to_list() == [("ok",)]
        sql.exec("DROP VIEW v; DROP TRIGGER tr; DROP INDEX i; DROP TABLE u")
        sql.exec("WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 2 FROM r LIMIT 2) SELECT * FROM r")

    in_object(work)


@pytest.mark.parametrize(
    "pragma",
    [
        "journal_mode",
        "journal_mode = delete",
        "main.journal_mode(off)",
        "writable_schema = on",
        "synchronous = off",
        "wal_checkpoint(truncate)",
        "wal_autocheckpoint = 1",
        "locking_mode = normal",
        "user_version = 3",
        "schema_version = 3",
        "cache_size = -1000000",
        "temp_store = file",
        "mmap_size = 1",
        "max_page_count = 1",
        "query_only = 1",
        "trusted_schema = on",
        "integrity_check",
        "database_list",
        "page_size = 512",
        "data_version = 1",
        "foreign_keys = perhaps",
        "optimize('all')",
    ],
)
def test_pragmas_that_are_not_on_the_list_are_refused(pragma: str) -> None:
    assert "PRAGMA" in refused(f"PRAGMA {pragma}")


def test_pragmas_that_are_not_on_the_list_are_refused_as_tables_too() -> None:
    assert "PRAGMA journal_mode is not allowed" in refused("SELECT * FROM pragma_journal_mode")


def test_pragmas_on_the_list_work() -> None:
    def work(storage: ObjectStorage) -> None:
        storage.sql.exec("CREATE TABLE t (a PRIMARY KEY)")
        for name in PRAGMAS:
            for argument in ("", "(t)", "(1)", " = on", "('off')"):
                try:
                    storage.sql.exec(f"PRAGMA {name}{argument}").to_list()
                except (Invalid, SqlError):
                    assert argument, name
        storage.sql.exec("PRAGMA case_sensitive_like = on")
        assert storage.sql.exec("SELECT 'A' LIKE 'a'").one() == (0,)

    in_object(work)


@pytest.mark.parametrize(
    "function",
    [
        "load_extension('/tmp/evil')",
        "sqlite_version()",
        "sqlite_compileoption_used('X')",
        "fts5_source_id()",
        "geopoly_area('[]')",
        "median(1)",
        "fts3_tokenizer('x')",
        "rtreedepth(x'00')",
    ],
)
def test_functions_that_are_not_on_the_list_are_refused(function: str) -> None:
    assert f"The function {function.partition('(')[0]} is not allowed" in refused(f"SELECT {function}")


def test_functions_on_the_list_exist() -> None:
    connection = apsw.Connection(":memory:")
    known = {name for (name,) in connection.execute("SELECT name FROM pragma_function_list")}
    missing = FUNCTIONS - known - {"json_each", "json_tree", "jsonb_each", "jsonb_tree"}
    assert all(name.startswith("sqlite_") for name in missing), missing


def test_foreign_keys_are_enforced() -> None:
    def work(storage: ObjectStorage) -> None:
        storage.sql.exec("CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (p REFERENCES p)")
        with pytest.raises(SqlError, match="FOREIGN KEY"):
            storage.sql.exec("INSERT INTO c VALUES (1)")
        storage.sql.exec("PRAGMA defer_foreign_keys = on; INSERT INTO c VALUES (1); INSERT INTO p VALUES (1)")

    in_object(work)


def test_the_text_of_a_statement_of_ours_is_not_let_through_because_it_is_compiled_already() -> None:
    def work(storage: ObjectStorage) -> None:
        ours = "SELECT at_ms, retries, failed FROM _penstock_alarm"
        storage.get_alarm()
        assert system_storage(storage).execute(ours).fetchall() == []
        for _ in range(2):
            with pytest.raises(Invalid, match="_penstock_alarm: names that begin"):
                storage.sql.exec(ours)
        storage.get_alarm()
        storage.sql.exec("CREATE TABLE t (a)")  # everything is compiled again
        storage.get_alarm()

    in_object(work)


def test_compiled_statements_are_kept() -> None:
    def work(storage: ObjectStorage) -> None:
        connection = storage.sql.exec("SELECT 1")._rows.connection  # type: ignore[attr-defined]
        before = connection.cache_stats()
        for _ in range(100):
            storage.sql.exec("SELECT 1").one()
            storage.get_alarm()
            storage.kv.get("x")
        after = connection.cache_stats()
        assert after["misses"] - before["misses"] <= 2

    in_object(work)


def test_a_reader_reaches_none_of_the_runtimes_tables_either() -> None:
    def work(storage: ObjectStorage) -> None:
        storage.sql.exec("CREATE TABLE t (a)")
        with pytest.raises(apsw.AuthError), system_storage(storage).reader() as reader:
            list(reader.rows("SELECT * FROM _penstock_alarm", ()))

    in_object(work)


# -- limits ----------------------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return "SELECT " + "-(" * depth + "1" + ")" * depth


@pytest.mark.parametrize(
    ("allowed", "too_much", "named"),
    [
        (f"SELECT '{'x' * 99_991}'", f"SELECT '{'x' * 99_992}'", limits.SQL_TEXT_BYTES_MAX),
        ("SELECT 1;" * 11_111, "SELECT 1;" * 11_112, limits.SQL_TEXT_BYTES_MAX),
        (
            "INSERT INTO t VALUES (zeroblob(2097152))",
            "INSERT INTO t VALUES (zeroblob(2200000))",
            limits.SQL_ROW_BYTES_MAX,
        ),
        (
            f"CREATE TABLE w ({','.join(f'c{n}' for n in range(100))})",
            f"CREATE TABLE x ({','.join(f'c{n}' for n in range(101))})",
            limits.SQL_COLUMNS_MAX,
        ),
        ("SELECT " + ",".join("1" * 100), "SELECT " + ",".join("1" * 101), limits.SQL_COLUMNS_MAX),
        (
            "SELECT 1 IN (" + ",".join("?" * 100) + ")",
            "SELECT 1 IN (" + ",".join("?" * 101) + ")",
            limits.SQL_BINDINGS_MAX,
        ),
        ("SELECT ?100", "SELECT ?101", limits.SQL_BINDINGS_MAX),
        (
            "SELECT coalesce(" + ",".join("1" * 127) + ")",
            "SELECT coalesce(" + ",".join("1" * 128) + ")",
            limits.SQL_FUNCTION_ARGUMENTS_MAX,
        ),
        ("SELECT 'a' LIKE '%s'" % ("x" * 50), "SELECT 'a' LIKE '%s'" % ("x" * 51), limits.SQL_PATTERN_BYTES_MAX),
        ("SELECT 'a' GLOB '%s'" % ("x" * 50), "SELECT 'a' GLOB '%s'" % ("x" * 51), limits.SQL_PATTERN_BYTES_MAX),
        (nested(45), nested(101), limits.SQL_EXPRESSION_DEPTH_MAX),
        (nested(1), nested(5_000), limits.SQL_EXPRESSION_DEPTH_MAX),
        ("SELECT 1" + " UNION SELECT 1" * 4, "SELECT 1" + " UNION SELECT 1" * 5, limits.SQL_COMPOUND_TERMS_MAX),
        (
            "INSERT INTO t VALUES " + ",".join(["(1)"] * 2_000),
            "INSERT INTO t VALUES " + ",".join(["(1)"] * 24_000),
            limits.SQL_INSTRUCTIONS_MAX,
        ),
        ("INSERT INTO r VALUES (9)", "INSERT INTO r VALUES (12)", limits.SQL_TRIGGER_DEPTH_MAX),
    ],
)
def test_limits_are_named(allowed: str, too_much: str, named: int) -> None:
    def work(storage: ObjectStorage) -> None:
        storage.sql.exec(
            "CREATE TABLE t (a); CREATE TABLE r (n); PRAGMA recursive_triggers = on;"
            "CREATE TRIGGER down AFTER INSERT ON r WHEN new.n > 0 BEGIN INSERT INTO r VALUES (new.n - 1); END"
        )

        def run(query: str) -> None:
            storage.sql.exec(query, *[None] * (query.count("?") if "?1" not in query else 100)).to_list()

        run(allowed)
        with pytest.raises(Invalid, match=str(named)):
            run(too_much)

    in_object(work)


def test_a_binding_over_the_limit_of_a_row_is_refused() -> None:
    assert "2200000 bytes" in refused("SELECT ?", bytes(2_200_001))


def test_ctx_storage_has_nothing_that_leads_around_the_sandbox() -> None:
    names = {name for name in dir(ObjectStorage) if not name.startswith("_")}
    alarm = {"get_alarm", "set_alarm", "delete_alarm"}
    assert names == {"sql", "kv", "transaction_sync", "sync", "delete_all"} | alarm

    def work(storage: ObjectStorage) -> None:
        assert type(storage) is ObjectStorage

    in_object(work)


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


def test_a_query_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SQL_STEPS_MAX", 5_000_000)

    def work(storage: ObjectStorage) -> None:
        storage.sql.exec("CREATE TABLE t (a)")
        storage.sql.exec("INSERT INTO t VALUES (1)")
        for _ in range(2):
            with pytest.raises(Invalid, match="instructions, the limit"):
                storage.sql.exec(ENDLESS).one()
        assert storage.sql.exec("SELECT a FROM t").one() == (1,)  # what was written in the step is still there

    in_object(work)


def test_a_statement_that_writes_and_does_not_end_takes_the_step_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SQL_STEPS_MAX", 5_000_000)

    def work(storage: ObjectStorage) -> None:
        storage.sql.exec("CREATE TABLE t (a)")
        storage.sql.exec(ENDLESS.replace("SELECT count(*) FROM c", "INSERT INTO t SELECT x FROM c"))

    with pytest.raises(Internal, match="rolled back the whole transaction"):
        in_object(work)
