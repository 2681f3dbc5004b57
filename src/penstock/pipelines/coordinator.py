"""The head of one pipeline: its settings, its shards, its plan.

A change of settings is stored first, then pushed to every shard; an alarm set in the same transaction finishes
the push if the process dies in between. Losing the coordinator stops changes, never ingestion: brokers have
the plan, shards deliver by themselves.
"""

from __future__ import annotations

from typing import Any

from msgspec import json

from penstock.base.errors import NotFound
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.pipelines.environment import PipelineEnv
from penstock.pipelines.plan import Plan, plan_shards
from penstock.pipelines.registry import REGISTRY
from penstock.pipelines.settings import PipelineDescription, PipelineSettings
from penstock.pipelines.stream_shard import CODE_UNKNOWN_PIPELINE, ShardConfig

#: A push that a crash interrupted is taken up again after this time.
_PUSH_RETRY_MS = 1_000

_TABLES = """
CREATE TABLE IF NOT EXISTS state (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  settings TEXT NOT NULL,        -- PipelineSettings
  version INTEGER NOT NULL,
  deleted INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS shards (
  position INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  takes_records INTEGER NOT NULL,
  version INTEGER NOT NULL       -- of the settings that it has
) STRICT;
"""


class Coordinator(DurableObject[PipelineEnv]):
    """Its name is the pipeline's id."""

    def __init__(self, ctx: Context, env: PipelineEnv) -> None:
        super().__init__(ctx, env)
        self._sql = SystemSql(system_storage(ctx.storage))
        self._sql.exec(_TABLES)

    async def create(self, settings: PipelineSettings) -> PipelineDescription:
        """Store the settings and make the shards. Harmless to do again after an attempt that was cut short."""
        row = self._row()
        self._store(settings, version=1 if row is None else row[1] + 1)
        await self._push()
        return self.describe()

    def describe(self) -> PipelineDescription:
        """Raises `NotFound` when there is no such pipeline, or no longer."""
        settings, version = self._current()
        return PipelineDescription(self.ctx.name, version, settings)

    async def update(self, settings: PipelineSettings) -> PipelineDescription:
        """Replace the settings. Records that are not in a file yet go where the new ones say."""
        _, version = self._current()
        self._store(settings, version + 1)
        await self._push()
        return self.describe()

    async def delete(self) -> None:
        """Take no more records and deliver those there are. Doing it again is harmless."""
        if self._row() is not None:
            self._sql.exec("UPDATE state SET deleted = 1, version = version + 1 WHERE NOT deleted")
            self._push_later()
            await self._push()

    def plan(self) -> Plan:
        settings, version = self._current()
        http = settings.http
        return Plan(
            pipeline=self.ctx.name,
            version=version,
            shards=self._shard_names("takes_records"),
            http=http is not None,
            authentication=http is not None and http.authentication,
        )

    async def alarm(self, info: AlarmInfo) -> None:
        self._push_later()
        await self._push()

    # -- state --------------------------------------------------------------------------------------------

    def _row(self) -> tuple[Any, ...] | None:
        return self._sql.exec("SELECT settings, version, deleted FROM state").first()

    def _current(self) -> tuple[PipelineSettings, int]:
        row = self._row()
        if row is None or row[2]:
            raise NotFound("There is no such pipeline.", code=CODE_UNKNOWN_PIPELINE)
        return json.decode(row[0], type=PipelineSettings), row[1]

    def _shard_names(self, condition: str) -> list[str]:
        return [row[0] for row in self._sql.exec(f"SELECT name FROM shards WHERE {condition} ORDER BY position")]

    def _store(self, settings: PipelineSettings, version: int) -> None:
        """Settings, shards and the alarm that finishes the push, in one transaction."""
        self._sql.exec(
            "INSERT INTO state VALUES (0, ?1, ?2, 0) ON CONFLICT DO UPDATE"
            " SET settings = excluded.settings, version = excluded.version",
            json.encode(settings).decode(),
            version,
        )
        known = self._shard_names("true")
        chosen = plan_shards(self.ctx.name, known, settings.shards, self.env.executors)
        for position, name in enumerate(dict.fromkeys([*known, *chosen])):
            self._sql.exec(
                "INSERT INTO shards VALUES (?1, ?2, ?3, 0) ON CONFLICT DO UPDATE"
                " SET takes_records = excluded.takes_records",
                position,
                name,
                name in chosen,
            )
        self._push_later()

    # -- push ---------------------------------------------------------------------------------------------

    def _push_later(self) -> None:
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + _PUSH_RETRY_MS)

    async def _push(self) -> None:
        """Bring every shard to the current settings, or close it; then there is nothing left to finish."""
        row = self._row()
        assert row is not None
        settings, version, deleted = json.decode(row[0], type=PipelineSettings), row[1], row[2]
        for name in self._shard_names(f"version < {int(version)}"):
            shard = self.ctx.namespace("StreamShard").get_by_name(name)
            if deleted:
                await shard.close()
            else:
                await shard.configure(_shard_config(self.ctx.name, version, settings))
            self._sql.exec("UPDATE shards SET version = ?1 WHERE name = ?2", version, name)
        if deleted:
            await self.ctx.namespace("Registry").get_by_name(REGISTRY).release(self.ctx.name)
        if self._row() == row:  # otherwise a later change is being pushed, and it has the alarm
            self.ctx.storage.delete_alarm()


def _shard_config(pipeline: str, version: int, settings: PipelineSettings) -> ShardConfig:
    return ShardConfig(
        pipeline=pipeline,
        version=version,
        rolling=settings.rolling,
        bucket=settings.bucket,
        prefix=settings.prefix,
        compression=settings.compression,
    )
