"""The table in which the alarm index keeps its entries, and what is done to it while no executor runs.

at_ms     when the alarm fires; never later than the committed alarm
wake_ms   when it is looked at: that, or later if it could not be fired lately
system    whether the object is of a class of Penstock's own
life, lost   which life of the executor has begun to fire it, 0 for none; and how many did not live to its end
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from penstock.objects.identity import ObjectId
from penstock.objects.placement import owner
from penstock.storage.database import Database
from penstock.storage.disk import Disk

_TABLE = (
    "CREATE TABLE IF NOT EXISTS alarms (namespace TEXT NOT NULL, key TEXT NOT NULL, name TEXT,"
    " at_ms INTEGER NOT NULL, wake_ms INTEGER NOT NULL, system INTEGER NOT NULL, life INTEGER NOT NULL DEFAULT 0,"
    " lost INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (namespace, key)) STRICT, WITHOUT ROWID"
)
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS alarms_due ON alarms (system, wake_ms)",
    # Of few entries, so that they are found without reading the others.
    "CREATE INDEX IF NOT EXISTS alarms_put_off ON alarms (wake_ms) WHERE wake_ms <> at_ms",
)
_INSERT = "INSERT INTO alarms (namespace, key, name, at_ms, wake_ms, system) VALUES (?1, ?2, ?3, ?4, ?4, ?5)"

#: Make an entry or move it, for another alarm. One that is there already is left as it is, also while it fires.
SET = (
    f"{_INSERT} ON CONFLICT DO UPDATE SET at_ms = excluded.at_ms, wake_ms = excluded.at_ms, life = 0, lost = 0"
    " WHERE at_ms <> excluded.at_ms"
)
REMOVE = "DELETE FROM alarms WHERE namespace = ?1 AND key = ?2"
#: Both are a look into an index by time, and read no entry that is not asked for.
DUE = (
    "SELECT namespace, key, name, life, lost FROM alarms WHERE system = ?1 AND wake_ms <= ?2"
    " ORDER BY wake_ms LIMIT ?3"
)
NEXT = "SELECT min(wake_ms) FROM alarms WHERE system = ?1 AND wake_ms > ?2"
BEGIN = "UPDATE alarms SET life = ?3, lost = ?4, wake_ms = max(wake_ms, ?5) WHERE namespace = ?1 AND key = ?2"
END = "UPDATE alarms SET life = 0, lost = 0 WHERE namespace = ?1 AND key = ?2 AND life <> 0"
PUT_OFF = "UPDATE alarms SET life = 0, wake_ms = ?3 WHERE namespace = ?1 AND key = ?2"
#: Forget what was put off, but not for entries with more than so many lives lost.
PUT_ON = "UPDATE alarms SET wake_ms = at_ms WHERE wake_ms <> at_ms AND lost <= ?1"
OWN = "UPDATE alarms SET system = 1 WHERE namespace = ?1 AND system = 0"

#: What the table was called before it was made over. In the first there were no keys, as every object had a name.
_BEFORE = ("alarms_by_name", "alarms_by_time_alone")


def create_tables(execute: Callable[..., apsw.Cursor]) -> None:
    """Make the table, or make it over. May be cut short."""
    columns = {column for (column,) in execute("SELECT name FROM pragma_table_info('alarms')")}
    if columns and "wake_ms" not in columns:
        execute(f"ALTER TABLE alarms RENAME TO {_BEFORE['key' in columns]}")
    execute(_TABLE)
    for table in _BEFORE:
        if execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1", (table,)).fetchone():
            key = "key" if table != _BEFORE[0] else "NULL"
            rows: list[tuple[Any, ...]] = execute(f"SELECT namespace, {key}, name, at_ms FROM {table}").fetchall()
            for namespace, key, name, at_ms in rows:
                execute(_ADOPT, (namespace, key or ObjectId(namespace, name).key, name, at_ms, 0))
            execute(f"DROP TABLE {table}")
    for index in _INDEXES:
        execute(index)


#: An entry that is there already may be the truth, and one too early does no harm.
_ADOPT = (
    f"{_INSERT} ON CONFLICT DO UPDATE SET at_ms = min(at_ms, excluded.at_ms),"
    " wake_ms = min(wake_ms, excluded.wake_ms)"
)


def rehome(disk: Disk, folder: str, executors: int) -> None:
    """Put every index entry under the executor that owns its object, after the number of executors changed.

    Blocks; run it before the executors start. Entries are copied before they are removed, so a crash leaves at
    worst an entry twice, which fires once too often and is put right.
    """
    for name in disk.list_dir(folder):
        if not name.endswith(".db"):
            continue
        slot = int(name.removesuffix(".db"))
        database = Database.open(disk, f"{folder}/{name}")
        create_tables(database.execute)
        strangers: dict[int, list[tuple[Any, ...]]] = {}
        row: tuple[Any, ...]
        for row in database.execute("SELECT namespace, key, name, at_ms, system FROM alarms"):
            home = owner(row[1], executors)
            if home != slot:
                strangers.setdefault(home, []).append(row)
        for home, rows in strangers.items():
            _adopt(disk, f"{folder}/{home}.db", rows)
            for namespace, key, *_ in rows:
                database.execute(REMOVE, (namespace, key))
        database.close()


def _adopt(disk: Disk, path: str, rows: list[tuple[Any, ...]]) -> None:
    database = Database.open(disk, path)
    create_tables(database.execute)
    for row in rows:
        database.execute(_ADOPT, row)
    database.close()


def forget_namespace(disk: Disk, folder: str, namespace: str) -> None:
    """Remove the entries of all objects of a namespace. Blocks; run it before the executors start."""
    for name in disk.list_dir(folder):
        if name.endswith(".db"):
            database = Database.open(disk, f"{folder}/{name}")
            create_tables(database.execute)
            database.execute("DELETE FROM alarms WHERE namespace = ?1", (namespace,))
            database.close()
