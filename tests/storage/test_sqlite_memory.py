"""What an open database takes of SQLite's memory."""

from __future__ import annotations

from pathlib import Path

import apsw

from penstock.storage.database import Database
from penstock.storage.disk import OsDisk
from penstock.storage.sqlite_memory import spare_lookaside

_DATABASES = 20
_EACH_BYTES_MAX = 90_000


def test_an_open_database_takes_little_memory(tmp_path: Path) -> None:
    before = apsw.memory_used()
    opened = [Database.open(OsDisk(), f"{tmp_path}/{n}.db") for n in range(_DATABASES)]
    each_bytes = (apsw.memory_used() - before) / _DATABASES
    for database in opened:
        database.close()
    assert each_bytes < _EACH_BYTES_MAX


def test_a_database_may_keep_more_pages_in_memory_as_it_reads_them(tmp_path: Path) -> None:
    database = Database.open(OsDisk(), f"{tmp_path}/a.db")
    before = apsw.memory_used()
    database.execute("CREATE TABLE notes (note)")
    database.execute("INSERT INTO notes VALUES (?1)", (b"x" * 500_000,))
    database.execute("SELECT sum(length(note)) FROM notes").fetchall()
    kept_bytes = apsw.memory_used() - before
    database.close()
    assert kept_bytes > 400_000


def test_connections_have_no_lookaside() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("SELECT * FROM (SELECT 1 AS one) WHERE one = 1").fetchall()
    _, most = connection.status(apsw.SQLITE_DBSTATUS_LOOKASIDE_USED)
    connection.close()
    assert most == 0


def test_while_a_connection_is_open_nothing_changes() -> None:
    connection = apsw.Connection(":memory:")
    assert not spare_lookaside()
    connection.execute("SELECT 1").fetchall()
    connection.close()
