"""What is written between two turns of the loop is one transaction."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from penstock.base.errors import Internal
from penstock.objects import AlarmInfo, Context, DurableObject

from .notebook import Notebook
from .world import HOUR_MS, World, error_of, key_of, run, start, turns


class Ledger(DurableObject[SimpleNamespace]):
    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS entries (entry TEXT)")

    async def alarm(self, info: AlarmInfo) -> None:
        pass

    def write(self, *entries: str) -> None:
        for entry in entries:
            self.sql.exec("INSERT INTO entries VALUES (?1)", entry)

    def read(self) -> list[str]:
        return [entry for (entry,) in self.sql.exec("SELECT entry FROM entries")]

    async def write_around_an_await(self) -> None:
        self.write("before")
        await asyncio.sleep(0.001)
        self.write("after")

    def write_and_fail(self) -> None:
        self.write("kept")
        raise RuntimeError("after the write")

    def change_nothing(self) -> None:
        self.sql.exec("UPDATE entries SET entry = 'x' WHERE 0")

    def undo(self) -> str:
        self.write("outside")
        try:
            self.ctx.storage.transaction_sync(self._fail)
        except KeyError as error:
            return f"undone by {error!r}"
        return "not undone"

    def _fail(self) -> None:
        self.write("inside")
        raise KeyError("k")

    def nest(self, inner_fails: bool, outer_fails: bool) -> None:
        def inner() -> None:
            self.write("inner")
            if inner_fails:
                raise KeyError("inner")

        def outer() -> str:
            self.write("outer")
            try:
                self.ctx.storage.transaction_sync(inner)
            except KeyError:
                self.write("went on")
            if outer_fails:
                raise KeyError("outer")
            return "result"

        try:
            assert self.ctx.storage.transaction_sync(outer) == "result"
        except KeyError:
            self.write("failed")

    def undo_alarm(self, at_ms: int | None) -> int | None:
        def work() -> None:
            if at_ms is None:
                self.ctx.storage.delete_alarm()
            else:
                self.ctx.storage.set_alarm(at_ms)
            assert self.ctx.storage.get_alarm() == at_ms
            raise KeyError("undo")

        with pytest.raises(KeyError):
            self.ctx.storage.transaction_sync(work)
        return self.ctx.storage.get_alarm()

    def set_alarm(self, at_ms: int) -> None:
        self.ctx.storage.set_alarm(at_ms)

    async def sync_to_the_end(self) -> None:
        self.write("synced")
        await self.ctx.storage.sync()
        self.env.log.append("durable")

    def wrong(self) -> None:
        self.sql.exec("NONSENSE")

    def one(self, count: int) -> str:
        self.sql.exec("DELETE FROM entries")
        self.write(*"abc"[:count])
        try:
            return str(self.sql.exec("SELECT entry FROM entries").one())
        except ValueError as error:
            return str(error)


def test_writes_without_an_await_between_them_are_one_commit() -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        await ledger.read()
        before = world.relay.count(key_of(ledger))
        await ledger.write("a", "b", "c")
        assert world.relay.count(key_of(ledger)) == before + 1

    run(main, Ledger)


def test_an_await_ends_the_transaction() -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        await ledger.read()
        before = world.relay.count(key_of(ledger))
        await ledger.write_around_an_await()
        assert world.relay.count(key_of(ledger)) == before + 2

    run(main, Ledger)


def test_calls_of_one_turn_share_a_commit() -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        await ledger.read()
        before = world.relay.count(key_of(ledger))
        await asyncio.gather(*(ledger.write(str(n)) for n in range(50)))
        assert world.relay.count(key_of(ledger)) == before + 1
        assert await ledger.read() == [str(n) for n in range(50)]

    run(main, Ledger)


def test_what_changes_nothing_commits_nothing_and_is_answered() -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        await ledger.read()
        before = world.relay.count(key_of(ledger))
        await ledger.change_nothing()
        await asyncio.gather(ledger.change_nothing(), ledger.read())
        assert world.relay.count(key_of(ledger)) == before

    run(main, Ledger)


def test_an_exception_undoes_nothing() -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        assert isinstance(await error_of(ledger.write_and_fail()), Internal)
        assert await ledger.read() == ["kept"]

    run(main, Ledger)


def test_transaction_sync_undoes_what_was_written_in_it_and_nothing_else() -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        assert await ledger.undo() == "undone by KeyError('k')"
        assert await ledger.read() == ["outside"]
        await world.host.kill()
        await world.start()
        assert await world.stub(Ledger).read() == ["outside"]

    run(main, Ledger)


@pytest.mark.parametrize(
    ("inner_fails", "outer_fails", "entries"),
    [
        (False, False, ["outer", "inner"]),
        (True, False, ["outer", "went on"]),
        (False, True, ["failed"]),
        (True, True, ["failed"]),
    ],
)
def test_transactions_nest(inner_fails: bool, outer_fails: bool, entries: list[str]) -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        await ledger.nest(inner_fails, outer_fails)
        assert await ledger.read() == entries

    run(main, Ledger)


@pytest.mark.parametrize("changed_to_ms", [None, 5])
def test_an_undone_transaction_restores_the_alarm(changed_to_ms: int | None) -> None:
    async def main(world: World) -> None:
        ledger, at_ms = world.stub(Ledger), world.clock.now_ms() + HOUR_MS
        assert await ledger.undo_alarm(changed_to_ms) is None
        await ledger.set_alarm(at_ms)
        assert await ledger.undo_alarm(changed_to_ms) == at_ms
        await world.elapse(1_000)
        assert world.host.runtime.alarms.indexed_ms(ledger.id) == at_ms

    run(main, Ledger)


def test_sync_returns_when_everything_is_durable() -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        await ledger.read()
        world.relay.hold()
        call = start(ledger.sync_to_the_end())
        await world.elapse(1_000)
        assert world.log == []
        world.relay.sync()
        await call
        assert world.log == ["durable"]

    run(main, Ledger)


def test_one_gives_the_only_row_and_complains_otherwise() -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        answers = [await ledger.one(count) for count in (0, 1, 2)]
        assert answers == ["Expected exactly one row, got 0.", "('a',)", "Expected exactly one row, got 2."]

    run(main, Ledger)


def test_a_wrong_statement_is_an_error_of_its_call_alone() -> None:
    async def main(world: World) -> None:
        ledger = world.stub(Ledger)
        writing, wrong = start(ledger.write("a")), start(ledger.wrong())
        error = await error_of(wrong)
        assert isinstance(error, Internal) and "NONSENSE" in error.message
        await writing
        assert await ledger.read() == ["a"]
        assert world.host.runtime.statistics.broken == 0

    run(main, Ledger)


def test_what_is_written_while_the_relay_has_a_commit_becomes_one_commit() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.add(0)
        before = world.relay.count(key_of(notebook))
        world.relay.hold()
        calls = []
        for note in range(1, 6):
            calls.append(start(notebook.add(note)))
            await turns()
        assert world.relay.count(key_of(notebook)) - before == 1
        world.relay.release()
        assert await asyncio.gather(*calls) == [1, 2, 3, 4, 5]
        assert world.relay.count(key_of(notebook)) - before == 2

    run(main, Notebook)
