"""The object that most tests call."""

from __future__ import annotations

from types import SimpleNamespace

from penstock.base.errors import Conflict
from penstock.objects import Context, DurableObject


class Notebook(DurableObject[SimpleNamespace]):
    """Keeps numbers in the order in which they came."""

    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, note)")
        env.log.append(("constructed", ctx.id.name))

    def add(self, note: int) -> int:
        self.env.log.append(("add", note))
        self.sql.exec("INSERT INTO notes (note) VALUES (?1)", note)
        return note

    def notes(self) -> list[int]:
        return [note for (note,) in self.sql.exec("SELECT note FROM notes ORDER BY id")]

    def add_much(self) -> None:
        """More than fits into SQLite's cache: on a full disk the statement fails, not just the commit."""
        self.sql.exec("INSERT INTO notes (note) VALUES (zeroblob(2000000))" + ", (zeroblob(2000000))" * 3)

    def ping(self) -> str:
        return "pong"

    def add_and_refuse(self, note: int) -> None:
        self.add(note)
        raise Conflict("written, but no", code=77)

    def add_and_fail(self, note: int) -> None:
        self.add(note)
        raise ZeroDivisionError("a bug")

    async def add_and_tell(self, note: int, other: str) -> int:
        self.add(note)
        told: int = await self.ctx.namespace("Notebook").get_by_name(other).add(note)
        return told

    async def tell(self, note: int, other: str) -> int:
        told: int = await self.ctx.namespace("Notebook").get_by_name(other).add(note)
        return told

    async def add_and_upload(self, note: int) -> int:
        self.add(note)
        return await self.ctx.buckets.put("bucket", f"{note}.txt", lambda: [b"%d" % note])
