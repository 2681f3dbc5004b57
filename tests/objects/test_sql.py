"""`ctx.storage.sql`: queries, cursors, bindings and errors."""

from __future__ import annotations

import asyncio
from typing import Any

import apsw
import pytest

from penstock.base.errors import Corrupt, Internal, Invalid
from penstock.objects import SqlConstraintError, SqlError
from penstock.objects.sql import SystemSql
from penstock.objects.statements import split
from penstock.objects.storage import ObjectStorage, system_storage

from .box import Box, do, in_object
from .world import World, error_of, run, start, turns


def numbers(storage: ObjectStorage, count: int = 5) -> None:
    storage.sql.exec("CREATE TABLE t (n INTEGER PRIMARY KEY, name TEXT)")
    for n in range(count):
        storage.sql.exec("INSERT INTO t VALUES (?, ?)", n, f"name {n}")


# -- cursors -------------------------------------------------------------------------------------------------


def test_a_cursor_gives_its_rows_once_as_tuples() -> None:
    def work(storage: ObjectStorage) -> None:
        numbers(storage)
        cursor = storage.sql.exec("SELECT n, name FROM t ORDER BY n")
        assert next(cursor) == (0, "name 0")
        for row in cursor:
            assert row == (1, "name 1")
            break
        assert cursor.to_list() == [(n, f"name {n}") for n in (2, 3, 4)]
        assert cursor.to_list() == []
        with pytest.raises(StopIteration):
            next(cursor)

    in_object(work)


def test_first_lets_the_rest_go() -> None:
    def work(storage: ObjectStorage) -> None:
        numbers(storage)
        cursor = storage.sql.exec("SELECT n FROM t ORDER BY n")
        assert cursor.first() == (0,)
        assert cursor.first() is None and cursor.to_list() == []
        storage.sql.exec("DROP TABLE t")  # nobody reads it any more

    in_object(work)


def test_values_come_back_as_they_were_stored() -> None:
    def work(storage: ObjectStorage) -> None:
        values = (None, -(1 << 63), (1 << 63) - 1, 1.5, "snow\u2603\0", b"\0\xff", "")
        assert storage.sql.exec("SELECT ?, ?, ?, ?, ?, ?, ?", *values).one() == values
        assert storage.sql.exec("SELECT ?, ?", True, bytearray(b"a")).one() == (1, b"a")

    in_object(work)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT 1 AS one, n, name AS 'the name' FROM t", ("one", "n", "the name")),
        ("SELECT n FROM t WHERE 0", ("n",)),
        ("INSERT INTO t VALUES (100, 'x') RETURNING name", ("name",)),
        ("DELETE FROM t", ()),
        ("PRAGMA table_info(t)", ("cid", "name", "type", "notnull", "dflt_value", "pk")),
        ("SELECT 1 AS a; SELECT 2 AS b", ("b",)),
    ],
)
def test_column_names_are_known_at_any_time_and_asking_runs_nothing(query: str, names: tuple[str, ...]) -> None:
    def work(storage: ObjectStorage) -> None:
        numbers(storage)
        cursor = storage.sql.exec(query)
        changed = storage.sql.exec("SELECT total_changes()").one()
        assert cursor.column_names == names
        cursor.to_list()
        assert cursor.column_names == names
        assert storage.sql.exec("SELECT total_changes()").one() == changed

    in_object(work)


@pytest.mark.parametrize(
    ("query", "written"),
    [
        ("SELECT * FROM t", 0),
        ("INSERT INTO t VALUES (100, 'x'), (101, 'y')", 2),
        ("UPDATE t SET name = 'z' WHERE n < 3 RETURNING n", 3),
        ("DELETE FROM t", 5),
        ("UPDATE t SET name = 'z' WHERE n > 10", 0),
        ("DELETE FROM t WHERE n = 1; DELETE FROM t WHERE n = 2; SELECT * FROM t", 2),
        ("INSERT INTO t VALUES (0, 'x') ON CONFLICT DO NOTHING", 0),
    ],
)
def test_rows_written_counts_what_the_query_changed(query: str, written: int) -> None:
    def work(storage: ObjectStorage) -> None:
        numbers(storage)
        cursor = storage.sql.exec(query)
        assert cursor.rows_written == written
        storage.sql.exec("DELETE FROM t")
        assert cursor.rows_written == written

    in_object(work)


def test_rows_written_counts_what_triggers_and_foreign_keys_changed() -> None:
    def work(storage: ObjectStorage) -> None:
        storage.sql.exec(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY);"
            "CREATE TABLE child (parent REFERENCES parent ON DELETE CASCADE);"
            "CREATE TABLE log (text);"
            "CREATE TRIGGER logged AFTER DELETE ON parent BEGIN"
            "  INSERT INTO log VALUES ('a'); INSERT INTO log VALUES ('b'); END;"
            "INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1), (1), (1);"
        )
        assert storage.sql.exec("DELETE FROM parent").rows_written == 1 + 3 + 2

    in_object(work)


def test_rows_read_counts_the_rows_given() -> None:
    def work(storage: ObjectStorage) -> None:
        numbers(storage)
        cursor = storage.sql.exec("SELECT n FROM t")
        assert cursor.rows_read == 0
        next(cursor)
        assert cursor.rows_read == 1
        next(iter(cursor))
        assert cursor.rows_read == 2
        cursor.to_list()
        assert cursor.rows_read == 5

    in_object(work)


def test_a_statement_that_writes_is_done_before_its_rows_are_read() -> None:
    """A statement half way through its writes could not be committed."""

    async def work(storage: ObjectStorage) -> list[Any]:
        numbers(storage)
        cursor = storage.sql.exec("UPDATE t SET n = n + 100 RETURNING n")
        first = next(cursor)
        await asyncio.sleep(1)
        assert storage.sql.exec("SELECT count(*) FROM t WHERE n < 100").one() == (0,)
        return [first, *cursor]

    assert in_object(work) == [(n,) for n in range(100, 105)]


def test_a_cursor_can_be_read_on_after_an_await_and_other_writes() -> None:
    async def work(storage: ObjectStorage) -> list[Any]:
        numbers(storage)
        cursor = storage.sql.exec("SELECT n FROM t ORDER BY n")
        rows = [next(cursor)]
        await asyncio.sleep(1)
        storage.sql.exec("DELETE FROM t WHERE n = 0")
        await asyncio.sleep(1)
        return [*rows, *cursor]

    assert in_object(work) == [(n,) for n in range(5)]


def test_database_size_is_what_is_in_use() -> None:
    def work(storage: ObjectStorage) -> None:
        empty = storage.sql.database_size
        storage.sql.exec("CREATE TABLE t (body)")
        storage.sql.exec("INSERT INTO t VALUES (zeroblob(1000000))")
        full = storage.sql.database_size
        storage.sql.exec("DELETE FROM t")
        assert 0 < empty < 100_000 < 1_000_000 < full < 1_100_000
        assert storage.sql.database_size < 100_000

    in_object(work)


# -- statements and bindings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "statements"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;", ["SELECT 1;"]),
        (" SELECT 1 ; ; SELECT 2 -- done", [" SELECT 1 ;", " SELECT 2 -- done"]),
        ("", []),
        (" ;; -- nothing; at all\n /* ; */ ;", []),
        ("SELECT ';', \"a;b\", [c;d], `e;f` /* ; */ ; -- ;\nSELECT 2", None),
        ("SELECT 'it''s; fine'; SELECT 2", ["SELECT 'it''s; fine';", " SELECT 2"]),
        (
            "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; SELECT 3; END; SELECT 2",
            None,
        ),
        ("SELECT 'open ; to the end", ["SELECT 'open ; to the end"]),
        ("/* a */ SELECT 1 -- ;", ["/* a */ SELECT 1 -- ;"]),
        ("/* a */ SELECT 1; /* b */ SELECT 2 /* c */;", ["/* a */ SELECT 1;", " /* b */ SELECT 2 /* c */;"]),
        ("SELECT 1; /* open ; to the end", ["SELECT 1;"]),
    ],
)
def test_a_query_is_split_at_the_semicolons_that_end_statements(query: str, statements: list[str] | None) -> None:
    if statements is None:  # the last one is SELECT 2
        assert len(split(query)) == 2 and split(query)[1].endswith("SELECT 2")
    else:
        assert list(split(query)) == statements


def test_of_several_statements_the_last_one_has_the_bindings_and_gives_the_rows() -> None:
    def work(storage: ObjectStorage) -> None:
        rows = storage.sql.exec(
            "CREATE TABLE t (n); INSERT INTO t VALUES (1), (2); SELECT * FROM t; SELECT n FROM t WHERE n > ?", 1
        )
        assert rows.to_list() == [(2,)]
        assert storage.sql.exec("UPDATE t SET n = 5 WHERE n = 2 RETURNING n; SELECT max(n) FROM t;").one() == (5,)
        with pytest.raises(Invalid, match="an earlier one has parameters too: INSERT INTO t VALUES"):
            storage.sql.exec("INSERT INTO t VALUES (?); SELECT 1", 9)
        assert storage.sql.exec(" ; -- nothing").to_list() == []

    in_object(work)


def test_an_error_in_one_of_several_statements_leaves_what_the_earlier_ones_did() -> None:
    def work(storage: ObjectStorage) -> None:
        numbers(storage)
        with pytest.raises(SqlError, match="no such table: nowhere"):
            storage.sql.exec("DELETE FROM t; SELECT * FROM nowhere; SELECT 1")
        assert storage.sql.exec("SELECT * FROM t").to_list() == []

    in_object(work)


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ((1, {}), "Binding 2 is of type dict; a binding is None, an int, a float, a str or bytes."),
        ((object(), 1), "Binding 1 is of type object"),
        ((1, 1 << 63), "Binding 2 is an int of more than 64 bits: 9223372036854775808."),
        ((-(1 << 63) - 1, 1), "Binding 1 is an int of more than 64 bits"),
        (("\ud800", 1), "Binding 1 is not valid Unicode"),
        ((1,), "The statement has 2 parameters, 1 bindings were given."),
        ((1, 2, 3), "The statement has 2 parameters, 3 bindings were given."),
        ((), "The statement has 2 parameters, 0 bindings were given."),
    ],
)
def test_bindings_that_do_not_fit_are_named(bindings: tuple[Any, ...], message: str) -> None:
    def work(storage: ObjectStorage) -> None:
        with pytest.raises(Invalid, match=message):
            storage.sql.exec("SELECT ?, ?", *bindings)

    in_object(work)


def test_parameters_are_bound_in_order_whatever_their_form() -> None:
    def work(storage: ObjectStorage) -> None:
        assert storage.sql.exec("SELECT ?2, ?1, ?2", "a", "b").one() == ("b", "a", "b")
        assert storage.sql.exec("SELECT :x, @y, $z", 1, 2, 3).one() == (1, 2, 3)

    in_object(work)


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        ("NONSENSE", SqlError, "syntax error"),
        ("SELECT * FROM nowhere", SqlError, "no such table: nowhere"),
        ("INSERT INTO t VALUES (1, 'x')", SqlConstraintError, "UNIQUE constraint failed: t.n"),
        ("INSERT INTO t VALUES ('x', 'x')", SqlError, "datatype mismatch"),
        ("SELECT abs(-9223372036854775808)", SqlError, "integer overflow"),
    ],
)
def test_what_sqlite_does_not_accept_is_an_error_of_the_statement_alone(
    query: str, kind: type[Exception], message: str
) -> None:
    def work(storage: ObjectStorage) -> None:
        numbers(storage)
        with pytest.raises(kind, match=message):
            storage.sql.exec(query)
        assert storage.sql.exec("SELECT count(*) FROM t").one() == (5,)

    in_object(work)


def test_an_error_in_the_middle_of_the_rows_is_like_one_at_the_start() -> None:
    def work(storage: ObjectStorage) -> None:
        numbers(storage)
        query = "SELECT abs(CASE n WHEN 2 THEN -9223372036854775808 ELSE n END) FROM t ORDER BY n"
        for read in (list, lambda cursor: [next(cursor) for _ in range(3)], lambda cursor: cursor.one()):
            with pytest.raises(SqlError, match="integer overflow"):
                read(storage.sql.exec(query))

    in_object(work)


def test_a_disk_error_in_the_middle_of_the_rows_breaks_the_object() -> None:
    async def main(world: World) -> None:
        def fill(storage: ObjectStorage) -> None:
            storage.sql.exec("CREATE TABLE t (body)")
            for _ in range(20):
                storage.sql.exec("INSERT INTO t VALUES (zeroblob(1000000))")

        await do(world, fill)
        await world.host.stop()
        host = await world.start()
        [path] = [path for path in world.disk.files("/data/objects") if path.endswith(".db")]
        inode = world.disk.find(path)
        assert inode is not None

        def read(storage: ObjectStorage) -> None:
            cursor = storage.sql.exec("SELECT body FROM t")
            next(cursor)
            del inode.content[8_000_000:]
            list(cursor)

        with pytest.raises(Corrupt, match="is damaged"):
            await do(world, read)
        await turns()
        assert host.runtime.statistics.broken == 1

    run(main, Box)


@pytest.mark.parametrize(
    "query",
    ["INSERT OR ROLLBACK INTO t VALUES (1, 'again')", "INSERT INTO t VALUES (-1, 'x')"],
)
def test_a_statement_that_rolls_the_transaction_back_breaks_the_object_and_fails_the_calls_of_the_step(
    query: str,
) -> None:
    """Their writes are gone, so nobody may hear that they were done."""

    async def main(world: World) -> None:
        def prepare(storage: ObjectStorage) -> None:
            numbers(storage)
            storage.sql.exec(
                "CREATE TRIGGER no BEFORE INSERT ON t WHEN new.n < 0 BEGIN SELECT RAISE(ROLLBACK, 'negative'); END"
            )

        await do(world, prepare)
        world.env.work = lambda storage: storage.sql.exec("INSERT INTO t VALUES (50, 'other')").rows_written
        other = start(world.stub(Box).run())
        await turns(1)
        with pytest.raises(Internal, match="rolled back the whole transaction"):
            await do(world, lambda storage: storage.sql.exec(query))
        assert isinstance(await error_of(other), Internal)
        await turns()
        assert await do(world, lambda storage: storage.sql.exec("SELECT count(*) FROM t").one()) == (5,)
        assert world.host.runtime.statistics.broken == 1

    run(main, Box)


def test_a_constraint_that_fails_at_the_commit_fails_the_calls_of_the_step() -> None:
    async def main(world: World) -> None:
        await do(
            world,
            lambda storage: storage.sql.exec(
                "CREATE TABLE p (id INTEGER PRIMARY KEY);"
                "CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED);"
            ),
        )
        with pytest.raises(Internal, match="FOREIGN KEY constraint failed"):
            await do(world, lambda storage: storage.sql.exec("INSERT INTO c VALUES (1)").first())
        assert await do(world, lambda storage: storage.sql.exec("SELECT count(*) FROM c").one()) == (0,)

    run(main, Box)


def test_sql_of_our_own_classes_is_without_the_limits() -> None:
    def work(storage: ObjectStorage) -> None:
        sql = SystemSql(system_storage(storage))
        sql.exec("CREATE TABLE t (body); CREATE INDEX i ON t (body)")
        sql.exec("INSERT INTO t VALUES (?)", bytes(5_000_000))
        assert sql.exec("SELECT length(body) FROM t").one() == (5_000_000,)
        assert sql.exec("SELECT 1 WHERE 0").first() is None
        assert sql.exec("SELECT 1").to_list() == [(1,)]
        with pytest.raises(apsw.SQLError):
            sql.exec("NONSENSE")

    in_object(work)
