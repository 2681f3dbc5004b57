"""Which pipelines there are: names to ids. One object for the whole instance.

It is asked when a pipeline is created, listed or looked up by name, and by brokers on the first record for an
id they do not know, so that a made-up id never brings an object to life.
"""

from __future__ import annotations

import re

from msgspec import Struct

from penstock.base.errors import Conflict
from penstock.base.ids import random_id
from penstock.objects import Context, DurableObject
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.pipelines.environment import PipelineEnv
from penstock.pipelines.settings import PipelineDescription, PipelineSettings

REGISTRY = "pipelines"
CODE_EXISTS = 1003
_ID = re.compile(r"[0-9a-f]{32}")


class Page(Struct, frozen=True):
    ids: list[str]
    total: int


class Named(Struct, frozen=True):
    name: str
    id: str


class Registry(DurableObject[PipelineEnv]):
    def __init__(self, ctx: Context, env: PipelineEnv) -> None:
        super().__init__(ctx, env)
        self._sql = SystemSql(system_storage(ctx.storage))
        self._creating: set[tuple[str, str]] = set()
        # A name is reserved first and confirmed when its coordinator has stored the settings.
        self._sql.exec(
            "CREATE TABLE IF NOT EXISTS pipelines ("
            " account TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL UNIQUE, confirmed INTEGER NOT NULL,"
            " PRIMARY KEY (account, name)) STRICT"
        )

    async def create(self, account: str, settings: PipelineSettings, code_version: str) -> PipelineDescription:
        """Make a pipeline: reserve its name and an id, let its coordinator store the settings, confirm. Raises
        `Conflict` when the name is taken. An attempt that was cut short is taken up by the next."""
        name = settings.name
        row = self._sql.exec(
            "SELECT id, confirmed FROM pipelines WHERE account = ?1 AND name = ?2", account, name
        ).first()
        if (account, name) in self._creating or (row is not None and row[1]):
            raise Conflict(f"A pipeline named {name!r} exists already.", code=CODE_EXISTS)
        id: str = row[0] if row is not None else random_id(self.ctx.rng)
        if row is None:
            self._sql.exec("INSERT INTO pipelines VALUES (?1, ?2, ?3, 0)", account, name, id)
        self._creating.add((account, name))
        try:
            coordinator = self.ctx.namespace("Coordinator").get_by_name(id)
            description: PipelineDescription = await coordinator.create(settings, code_version)
        finally:
            self._creating.discard((account, name))
        self._sql.exec("UPDATE pipelines SET confirmed = 1 WHERE id = ?1", id)
        return description

    def release(self, id: str) -> None:
        """The pipeline is deleted: its name is free again."""
        self._sql.exec("DELETE FROM pipelines WHERE id = ?1", id)

    def find(self, account: str, name: str) -> str | None:
        """The id of a pipeline by its name."""
        row = self._sql.exec(
            "SELECT id FROM pipelines WHERE account = ?1 AND name = ?2 AND confirmed", account, name
        ).first()
        return row[0] if row else None

    def find_table(self, account: str, table: str) -> list[Named]:
        """The pipelines that a query may mean by this name: the one of the name or, as SQL does not tell case
        apart and hyphens must be quoted in it, those that differ in that alone, with underscores for hyphens."""
        rows = self._sql.exec(
            "SELECT name, id FROM pipelines WHERE account = ?1 AND confirmed"
            " AND lower(?2) IN (lower(name), lower(replace(name, '-', '_'))) ORDER BY name LIMIT 10",
            *(account, table),
        ).to_list()
        exact = [row for row in rows if row[0] == table]
        return [Named(*row) for row in exact or rows]

    def named(self, account: str, limit: int) -> list[Named]:
        """The first pipelines, by their names."""
        rows = self._sql.exec(
            "SELECT name, id FROM pipelines WHERE account = ?1 AND confirmed ORDER BY name LIMIT ?2", account, limit
        )
        return [Named(*row) for row in rows]

    def exists(self, id: str) -> bool:
        if not _ID.fullmatch(id):
            return False
        return self._sql.exec("SELECT 1 FROM pipelines WHERE id = ?1 AND confirmed", id).first() is not None

    def list(self, account: str, search: str, offset: int, limit: int) -> Page:
        """Ids in the order of their names, of those whose name starts with `search`."""
        # A range over the primary key: names are ASCII, so no name with the prefix sorts after prefix + 0x7f.
        where = "WHERE account = ?1 AND name >= ?2 AND name < ?2 || char(127) AND confirmed"
        rows = self._sql.exec(
            f"SELECT id FROM pipelines {where} ORDER BY name LIMIT ?3 OFFSET ?4", account, search, limit, offset
        )
        ids = [row[0] for row in rows]
        total = self._sql.exec(f"SELECT count(*) FROM pipelines {where}", account, search).one()[0]
        return Page(ids, total)
