"""`delete_all`: everything goes, or nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from penstock.base.errors import Invalid
from penstock.objects.storage import ObjectStorage

from .box import Box, do, in_object
from .world import HOUR_MS, World, key_of, run

EVERYTHING = """
CREATE TABLE p (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  c REFERENCES c ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE RESTRICT);
CREATE INDEX i ON p (c);
CREATE VIEW v AS SELECT * FROM p JOIN w;
CREATE VIEW w AS SELECT * FROM nowhere;
CREATE TRIGGER no BEFORE DELETE ON p BEGIN SELECT RAISE(ABORT, 'never'); END;
CREATE TRIGGER of AFTER INSERT ON c BEGIN INSERT INTO "a ""b"" c" VALUES (1); END;
CREATE TABLE "a ""b"" c" (x);
CREATE VIRTUAL TABLE f USING fts5(text);
CREATE VIRTUAL TABLE fv USING fts5vocab(f, row);
CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);
INSERT INTO p VALUES (1, 1);
INSERT INTO c VALUES (1, 1);
INSERT INTO f VALUES ('word');
INSERT INTO r VALUES (1, 2, 3);
ANALYZE;
"""


def fill(storage: ObjectStorage) -> None:
    storage.sql.exec(EVERYTHING)
    storage.kv.put("a", bytes(1_000_000))
    storage.set_alarm(1 << 50)


def names(storage: ObjectStorage) -> set[str]:
    return {name for (name,) in storage.sql.exec("SELECT name FROM sqlite_schema")}


def test_everything_goes_in_one_commit_and_the_object_can_be_used_on() -> None:
    async def main(world: World) -> None:
        await do(world, fill)
        commits = world.relay.count(key_of(world.stub(Box)))

        def work(storage: ObjectStorage) -> None:
            assert storage.sql.database_size > 1_000_000
            storage.delete_all()
            assert {name for name in names(storage) if not name.startswith("sqlite_")} == {
                "_penstock_alarm",
                "_penstock_meta",
            }
            assert storage.sql.database_size < 100_000
            assert storage.get_alarm() is None and storage.kv.get("a") is None
            storage.kv.put("b", 2)
            storage.sql.exec("CREATE TABLE p (a); INSERT INTO p VALUES (1)")

        await do(world, work)
        assert world.relay.count(key_of(world.stub(Box))) == commits + 1
        await world.host.stop()
        await world.start()

        def after(storage: ObjectStorage) -> Any:
            storage.delete_all()
            storage.delete_all()
            assert list(storage.kv.list()) == []
            storage.sql.exec(EVERYTHING)
            # Foreign keys are on again.
            with pytest.raises(Exception, match="FOREIGN KEY"):
                storage.sql.exec("INSERT INTO c VALUES (2, 99)")

        await do(world, after)
        assert world.host.runtime.alarms.pending == 0

    run(main, Box)


def test_its_alarm_does_not_fire() -> None:
    async def main(world: World) -> None:
        at_ms = world.clock.now_ms() + HOUR_MS
        await do(world, lambda storage: storage.set_alarm(at_ms))
        await do(world, lambda storage: storage.delete_all())
        await world.elapse(1_000)
        assert world.host.runtime.alarms.pending == 0

    run(main, Box)


def test_it_is_not_allowed_where_it_would_have_to_be_undone() -> None:
    def work(storage: ObjectStorage) -> None:
        fill(storage)
        with pytest.raises(Invalid, match="not allowed within transaction_sync"):
            storage.transaction_sync(storage.delete_all)
        assert "p" in names(storage) and storage.kv.get("a") is not None

    in_object(work)


def test_while_a_cursor_is_open_nothing_goes() -> None:
    def work(storage: ObjectStorage) -> None:
        fill(storage)
        storage.sql.exec("CREATE TABLE big (n); INSERT INTO big VALUES (1), (2), (3)")
        cursor = storage.sql.exec("SELECT * FROM big")
        next(cursor)
        before = names(storage)
        with pytest.raises(Invalid, match="needs all cursors to be read to their end"):
            storage.delete_all()
        assert names(storage) == before and storage.get_alarm() == 1 << 50
        assert storage.kv.get("a") == bytes(1_000_000)
        del cursor
        storage.delete_all()
        assert "big" not in names(storage)

    in_object(work)


def test_an_alarm_is_set_in_milliseconds_or_as_a_time_with_a_zone() -> None:
    def work(storage: ObjectStorage) -> None:
        noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        noon_ms = 1_767_268_800_000
        for at, at_ms in (
            (noon_ms, noon_ms),
            (noon, noon_ms),
            (noon.astimezone(timezone(timedelta(hours=5))), noon_ms),
            (noon + timedelta(microseconds=1), noon_ms + 1),
            (datetime(1960, 1, 1, tzinfo=UTC), 0),
            (-5, 0),
            ((1 << 63) - 1, (1 << 63) - 1),
        ):
            storage.set_alarm(at)
            assert storage.get_alarm() == at_ms
        storage.set_alarm(noon_ms)
        for wrong, message in (
            (datetime(2026, 1, 1), "has no time zone"),
            (1.5, "is an int .* or a datetime, not float"),
            (True, "not bool"),
            ("soon", "not str"),
            (1 << 63, "the limit is"),
        ):
            with pytest.raises(Invalid, match=message):
                storage.set_alarm(wrong)  # type: ignore[arg-type]
        assert storage.get_alarm() == noon_ms

    in_object(work)


def test_a_coroutine_function_is_no_transaction() -> None:
    def work(storage: ObjectStorage) -> None:
        async def wrong() -> None:
            raise AssertionError

        with pytest.raises(Invalid, match="takes a plain function"):
            storage.transaction_sync(wrong)

    in_object(work)
