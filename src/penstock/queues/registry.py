"""Which queues there are: names to ids. One object for the whole instance.

It is asked when a queue is made, listed, renamed or looked up by its name or id, so that a made-up id never brings
an object to life; by storage shards, for the queue that their dead letters go to. Sending and delivering never ask
it.
"""

from __future__ import annotations

import asyncio
import re

from msgspec import Struct

from penstock.base.errors import Conflict, Invalid, NotFound
from penstock.base.ids import random_id
from penstock.base.limits import QUEUES_MAX
from penstock.objects import Context, DurableObject
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.queues.codes import CODE_INVALID_QUEUE, CODE_NAME_TAKEN, CODE_UNKNOWN_QUEUE
from penstock.queues.environment import QueueEnv
from penstock.queues.settings import QueueDescription, QueueSettings

QUEUE_REGISTRY = "queues"

_ID = re.compile(r"[0-9a-f]{32}")

_TABLES = """
CREATE TABLE IF NOT EXISTS queues (
  account TEXT NOT NULL,
  name TEXT NOT NULL,
  id TEXT NOT NULL UNIQUE,
  confirmed INTEGER NOT NULL,      -- its coordinator has stored the settings
  PRIMARY KEY (account, name)
) STRICT
"""


class Page(Struct, frozen=True):
    ids: list[str]
    total: int


def is_queue_id(text: str) -> bool:
    """Whether it has the shape of a queue's id."""
    return _ID.fullmatch(text) is not None


class QueueRegistry(DurableObject[QueueEnv]):
    def __init__(self, ctx: Context, env: QueueEnv) -> None:
        super().__init__(ctx, env)
        self._sql = SystemSql(system_storage(ctx.storage))
        self._sql.exec(_TABLES)
        #: Those whose coordinator is being asked, by account and name.
        self._creating: dict[tuple[str, str], asyncio.Event] = {}

    async def create(self, account: str, settings: QueueSettings) -> QueueDescription:
        """Make a queue: reserve its name and an id, let its coordinator store the settings, confirm. Raises
        `Conflict` when the name is taken, `Invalid` when there are too many queues. An attempt that was cut short
        is taken up by the next."""
        name = settings.name
        row = self._row(account, name)
        if (account, name) in self._creating or (row is not None and row[1]):
            raise Conflict(f"A queue named {name!r} exists already.", code=CODE_NAME_TAKEN)
        if row is None and self._count(account) >= QUEUES_MAX:
            raise Invalid(
                f"There are {QUEUES_MAX} queues, the most there may be: delete some.", code=CODE_INVALID_QUEUE
            )
        id: str = row[0] if row is not None else random_id(self.ctx.rng)
        if row is None:
            self._sql.exec("INSERT INTO queues VALUES (?1, ?2, ?3, 0)", account, name, id)
        done = self._creating[account, name] = asyncio.Event()
        try:
            coordinator = self.ctx.namespace("QueueCoordinator").get_by_name(id)
            description: QueueDescription = await coordinator.create(account, settings)
            self._sql.exec("UPDATE queues SET confirmed = 1 WHERE id = ?1", id)
        finally:
            del self._creating[account, name]
            done.set()
        return description

    async def ensure(self, account: str, name: str) -> str:
        """The id of the queue of this name, which is made, with the settings that go without saying, if there is
        none. Raises `Invalid` when there are too many queues."""
        while (row := self._row(account, name)) is None or not row[1]:
            creating = self._creating.get((account, name))
            if creating is not None:
                await creating.wait()
                continue
            await self.create(account, QueueSettings(name))
        id: str = row[0]
        return id

    def rename(self, id: str, name: str) -> None:
        """Raises `Conflict` when the name is taken, `NotFound`. Doing it again is harmless."""
        row = self._sql.exec("SELECT account FROM queues WHERE id = ?1", id).first()
        if row is None:
            raise NotFound("There is no such queue.", code=CODE_UNKNOWN_QUEUE)
        holder = self._row(row[0], name)
        if holder is not None and holder[0] != id:
            raise Conflict(f"A queue named {name!r} exists already.", code=CODE_NAME_TAKEN)
        self._sql.exec("UPDATE queues SET name = ?1 WHERE id = ?2", name, id)

    def release(self, id: str) -> None:
        """The queue is deleted: its name is free again."""
        self._sql.exec("DELETE FROM queues WHERE id = ?1", id)

    def find(self, account: str, name: str) -> str | None:
        """The id of a queue by its name."""
        row = self._row(account, name)
        return row[0] if row is not None and row[1] else None

    def name_of(self, account: str, id: str) -> str | None:
        """The name of a queue by its id, None if the account has no such queue."""
        row = self._sql.exec(
            "SELECT name FROM queues WHERE id = ?1 AND account = ?2 AND confirmed", id, account
        ).first()
        return row[0] if row else None

    def exists(self, id: str, account: str) -> bool:
        return self.name_of(account, id) is not None

    def list(self, account: str, offset: int, limit: int) -> Page:
        """Ids in the order of their names."""
        rows = self._sql.exec(
            "SELECT id FROM queues WHERE account = ?1 AND confirmed ORDER BY name LIMIT ?2 OFFSET ?3",
            *(account, limit, offset),
        )
        ids = [row[0] for row in rows]
        total = self._sql.exec("SELECT count(*) FROM queues WHERE account = ?1 AND confirmed", account).one()[0]
        return Page(ids, total)

    def _row(self, account: str, name: str) -> tuple[str, int] | None:
        """Id, and whether it is confirmed."""
        row = self._sql.exec(
            "SELECT id, confirmed FROM queues WHERE account = ?1 AND name = ?2", account, name
        ).first()
        return (row[0], row[1]) if row else None

    def _count(self, account: str) -> int:
        count: int = self._sql.exec("SELECT count(*) FROM queues WHERE account = ?1", account).one()[0]
        return count
