"""The head of one pipeline: its settings, its generations with their shards, its plan.

Each change of settings makes a new **generation** with shards of its own, so a record's file is made by the
settings that it came under. A generation goes through

    OPENING     its shards are being told their settings; the one before still takes records
    ACTIVE      the plan names its shards
    DRAINING    its shards take no more records and deliver those they have
    DRAINED     the last byte is in the bucket; what is left is the ledger

What is to be is stored first, then every shard is told; an alarm set in the same transaction finishes that if the
process dies in between. Losing the coordinator stops changes, never ingestion: brokers have the plan, shards
deliver by themselves.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec
import structlog
from msgspec import Struct, json

from penstock.base.errors import NotFound, StorageFull, Unavailable
from penstock.base.limits import SHARDS_MAX
from penstock.objects import AlarmInfo, Context, DurableObject, Stub
from penstock.objects.sql import SystemSql
from penstock.objects.storage import system_storage
from penstock.pipelines.environment import PipelineEnv
from penstock.pipelines.layout import partition_ms
from penstock.pipelines.plan import Plan, shard_count, shard_name
from penstock.pipelines.preparation import Recipe
from penstock.pipelines.registry import REGISTRY
from penstock.pipelines.scaling import ShardLoad, wanted_shards
from penstock.pipelines.settings import PipelineDescription, PipelineSettings
from penstock.pipelines.stream_shard import CODE_UNKNOWN_PIPELINE, ShardConfig, ShardStatus
from penstock.pipelines.usage import PipelineUsage, ShardUsage, pipeline_usage

log = structlog.get_logger("penstock.pipelines")

#: A push that a crash interrupted is taken up again after this time.
_PUSH_RETRY_MS = 1_000

_TABLES = """
CREATE TABLE IF NOT EXISTS state (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  active INTEGER NOT NULL,         -- the generation that takes records, 0 before the first does
  deleted INTEGER NOT NULL,        -- 1: drain, 2: discard
  released INTEGER NOT NULL        -- a deleted pipeline's name is free again
) STRICT;
INSERT INTO state VALUES (0, 0, 0, 0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS generations (
  version INTEGER PRIMARY KEY,
  settings TEXT NOT NULL,          -- PipelineSettings
  created_ms INTEGER NOT NULL,
  code_version TEXT NOT NULL,      -- of the application whose transforms it names
  drained_ms INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS shards (
  name TEXT PRIMARY KEY,
  version INTEGER NOT NULL,
  position INTEGER NOT NULL,
  state INTEGER NOT NULL,
  told INTEGER NOT NULL,           -- whether the shard knows
  ready INTEGER NOT NULL           -- it has settings, if not the newest: it can take records
) STRICT;
CREATE TABLE IF NOT EXISTS drained_shards (
  name TEXT PRIMARY KEY,
  usage TEXT NOT NULL              -- ShardUsage, which changes no more
) STRICT;
CREATE INDEX IF NOT EXISTS untold ON shards (version, position) WHERE NOT told;
"""


class ShardState(IntEnum):
    OPEN = 0
    CLOSED = 1
    DRAINED = 2


class ShardRef(Struct, frozen=True):
    name: str
    version: int
    state: str


class ShardDescription(Struct, frozen=True):
    """A shard of a generation. `status` is None if it could not be asked."""

    name: str
    version: int
    state: str
    slot: int
    status: ShardStatus | None


class Deployment(Struct, frozen=True):
    """A generation: opening, active, draining or drained. Times are milliseconds since the Unix epoch."""

    version: int
    state: str
    created_ms: int
    drained_ms: int | None
    code_version: str
    settings: PipelineSettings
    shards: int


class Coordinator(DurableObject[PipelineEnv]):
    """Its name is the pipeline's id."""

    def __init__(self, ctx: Context, env: PipelineEnv) -> None:
        super().__init__(ctx, env)
        self._sql = SystemSql(system_storage(ctx.storage))
        self._sql.exec(_TABLES)
        #: What the shards said of themselves lately, and when (not of the wall clock).
        self._loads: dict[str, tuple[ShardLoad, int]] = {}

    # -- what can be asked --------------------------------------------------------------------------------

    def describe(self) -> PipelineDescription:
        """Raises `NotFound` when there is no such pipeline, or no longer."""
        settings, version = self._newest()
        return PipelineDescription(self.ctx.name, version, settings)

    def plan(self) -> Plan:
        newest, newest_version = self._newest()
        version = self._active or newest_version
        settings = newest if version == newest_version else self._settings_of(version)
        http = settings.http
        return Plan(
            pipeline=self.ctx.name,
            name=settings.name,
            version=version,
            shards=self._shard_names("version = ?1 AND state = 0 AND ready", version),
            http=http is not None,
            authentication=http is not None and http.authentication,
            cors_origins=http.cors.origins if http is not None and http.cors else [],
        )

    def deployments(self) -> list[Deployment]:
        """The generations, the newest first. Raises `NotFound`."""
        self._newest()
        rows = self._sql.exec(
            "SELECT version, created_ms, drained_ms, code_version, settings,"
            " (SELECT count(*) FROM shards WHERE shards.version = generations.version)"
            " FROM generations ORDER BY version DESC"
        )
        active = self._active
        return [
            Deployment(
                version=version,
                state=_state_in_words(version, active, drained_ms),
                created_ms=created_ms,
                drained_ms=drained_ms,
                code_version=code_version,
                settings=json.decode(settings, type=PipelineSettings),
                shards=shards,
            )
            for version, created_ms, drained_ms, code_version, settings, shards in rows
        ]

    def ledgers(self) -> list[ShardRef]:
        """All shards there ever were, the oldest generation's first: each has a ledger. Raises `NotFound`."""
        self._newest()
        rows = self._sql.exec("SELECT name, version, state FROM shards ORDER BY version, position")
        return [ShardRef(name, version, ShardState(state).name.lower()) for name, version, state in rows]

    async def shards(self, drained: bool = False) -> list[ShardDescription]:
        """The shards with what they say of themselves; those that are drained only if asked for. Raises
        `NotFound`."""
        self._newest()
        rows = self._sql.exec(
            "SELECT name, version, state FROM shards WHERE ?1 OR state < ?2 ORDER BY version, position",
            *(drained, int(ShardState.DRAINED)),
        ).to_list()
        return [await self._described(*row) for row in rows]

    def shard_names(self) -> list[str]:
        """All shards of all generations. Raises `NotFound`."""
        self._newest()
        return self._shard_names("true")

    async def usage(self) -> PipelineUsage:
        """What all shards of all generations took and gave. Raises `NotFound`."""
        self._newest()
        rows = self._sql.exec("SELECT name, version, state FROM shards ORDER BY version, position").to_list()
        known = {
            name: json.decode(usage, type=ShardUsage)
            for name, usage in self._sql.exec("SELECT name, usage FROM drained_shards")
        }
        live: list[ShardStatus] = []
        missing: list[str] = []
        for name, version, state in rows:
            if name in known:
                continue
            status = (await self._described(name, version, state)).status
            if status is None:
                missing.append(name)
            elif state == ShardState.DRAINED:
                known[name] = ShardUsage.of(status)
                self._sql.exec(
                    "INSERT OR REPLACE INTO drained_shards VALUES (?1, ?2)",
                    *(name, json.encode(known[name]).decode()),
                )
            else:
                live.append(status)
        created_ms: int = self._sql.exec("SELECT min(created_ms) FROM generations").one()[0]
        return pipeline_usage(known.values(), live, missing, created_ms)

    async def _described(self, name: str, version: int, state: int) -> ShardDescription:
        shard = self._shard(name)
        try:
            status: ShardStatus | None = await shard.status()
        except (Unavailable, StorageFull) as error:  # one that cannot even start on a full disk
            log.info("shard_not_asked", shard=name, error=error.message)
            status = None
        return ShardDescription(name, version, ShardState(state).name.lower(), shard.slot, status)

    # -- changes ------------------------------------------------------------------------------------------

    async def create(self, settings: PipelineSettings, code_version: str) -> PipelineDescription:
        """Store the settings and make the shards. Harmless to do again after an attempt that was cut short."""
        self._add_generation(settings, code_version)
        await self._push()
        return self.describe()

    async def update(self, settings: PipelineSettings, code_version: str) -> PipelineDescription:
        """Go on with other settings, in a new generation. What the one before holds goes where its own settings
        say; but if only the key to the same bucket is new, that holds for what waits as well. Settings that are as
        they were change nothing. Raises `NotFound`."""
        current, version = self._newest()
        if settings != current or code_version != self._code_version(version):
            self._add_generation(settings, code_version)
            self._reconnect_older(settings)
        await self._push()
        return self.describe()

    async def delete(self, discard: bool = False) -> None:
        """Take no more records and deliver those there are or, with `discard`, forget them. Doing it again is
        harmless."""
        if not self._versions():
            return
        wanted = 2 if discard else 1
        if self._deleted < wanted:
            self._sql.exec("UPDATE state SET deleted = ?1", wanted)
            self._sql.exec(
                "UPDATE shards SET state = ?1, told = 0 WHERE state < ?2",
                *(int(ShardState.CLOSED), int(ShardState.DRAINED)),
            )
            self._wake_soon()
        await self._push()

    def drained(self, name: str) -> None:
        """A shard says that its last byte is in the bucket."""
        row = self._sql.exec("SELECT version, state FROM shards WHERE name = ?1", name).first()
        if row is None or row[1] != ShardState.CLOSED:
            return
        version = row[0]
        self._sql.exec("UPDATE shards SET state = ?1, told = 1 WHERE name = ?2", int(ShardState.DRAINED), name)
        left = self._sql.exec(
            "SELECT count(*) FROM shards WHERE version = ?1 AND state < ?2", version, int(ShardState.DRAINED)
        ).one()[0]
        if not left and (version != self._active or self._deleted):
            self._sql.exec(
                "UPDATE generations SET drained_ms = ?1 WHERE version = ?2", self.ctx.clock.now_ms(), version
            )
            log.info("generation_drained", pipeline=self.ctx.name, version=version)
        if self._deleted and not self._shard_names("state < ?1", int(ShardState.DRAINED)):
            self._wake_soon()

    async def heartbeat(self, load: ShardLoad) -> None:
        """A shard of the active generation says how busy it is; the number of shards follows, unless the settings
        fix it."""
        version = self._active
        if self._deleted or not version or self._settings_of(version).shards is not None:
            return
        names = self._shard_names("version = ?1 AND state = 0", version)
        if load.shard not in names:
            return
        now_ms = self.ctx.clock.elapsed_ms()
        self._loads = {name: seen for name, seen in self._loads.items() if name in names}
        self._loads[load.shard] = (load, now_ms)
        wanted = wanted_shards(
            list(self._loads.values()), len(names), shard_count(None, self.env.executors), now_ms
        )
        if wanted != len(names):
            self._loads.clear()  # they were shared by as many as there were
            self._resize(version, wanted)
            await self._push()

    async def alarm(self, info: AlarmInfo) -> None:
        await self._push()
        if self._deleted and not self._shard_names("state < ?1", int(ShardState.DRAINED)):
            await self._remove()

    # -- state --------------------------------------------------------------------------------------------

    @property
    def _active(self) -> int:
        active: int = self._sql.exec("SELECT active FROM state").one()[0]
        return active

    @property
    def _deleted(self) -> int:
        deleted: int = self._sql.exec("SELECT deleted FROM state").one()[0]
        return deleted

    def _versions(self) -> int:
        """The newest generation's version, 0 if there is none."""
        newest: int | None = self._sql.exec("SELECT max(version) FROM generations").one()[0]
        return newest or 0

    def _newest(self) -> tuple[PipelineSettings, int]:
        version = self._versions()
        if not version or self._deleted:
            raise NotFound("There is no such pipeline.", code=CODE_UNKNOWN_PIPELINE)
        return self._settings_of(version), version

    def _settings_of(self, version: int) -> PipelineSettings:
        text = self._sql.exec("SELECT settings FROM generations WHERE version = ?1", version).one()[0]
        return json.decode(text, type=PipelineSettings)

    def _code_version(self, version: int) -> str:
        code: str = self._sql.exec("SELECT code_version FROM generations WHERE version = ?1", version).one()[0]
        return code

    def _shard_names(self, condition: str, *bindings: Any) -> list[str]:
        rows = self._sql.exec(f"SELECT name FROM shards WHERE {condition} ORDER BY version, position", *bindings)
        return [row[0] for row in rows]

    def _shard(self, name: str) -> Stub:
        return self.ctx.namespace("StreamShard").get_by_name(name)

    def _add_generation(self, settings: PipelineSettings, code_version: str) -> None:
        """The generation, its shards and the alarm that finishes the push, in one transaction."""
        version = self._versions() + 1
        self._sql.exec(
            "INSERT INTO generations VALUES (?1, ?2, ?3, ?4, NULL)",
            *(version, json.encode(settings).decode(), self.ctx.clock.now_ms(), code_version),
        )
        for position in range(shard_count(settings.shards, self.env.executors)):
            self._add_shard(version, position)
        self._wake_soon()

    def _add_shard(self, version: int, position: int) -> None:
        name = shard_name(self.ctx.name, version, position, self.env.executors)
        self._sql.exec(
            "INSERT INTO shards VALUES (?1, ?2, ?3, ?4, 0, 0)", name, version, position, int(ShardState.OPEN)
        )

    def _reconnect_older(self, settings: PipelineSettings) -> None:
        """A new key to the same bucket is for those too who could not get into it with the old one."""
        for version, text in self._sql.exec(
            "SELECT version, settings FROM generations WHERE drained_ms IS NULL"
        ).to_list():
            older = json.decode(text, type=PipelineSettings)
            if older.s3 == settings.s3 or not _same_bucket(older, settings):
                continue
            changed = msgspec.structs.replace(older, s3=settings.s3)
            self._sql.exec(
                "UPDATE generations SET settings = ?1 WHERE version = ?2", json.encode(changed).decode(), version
            )
            self._sql.exec(
                "UPDATE shards SET told = 0 WHERE version = ?1 AND state < ?2", version, int(ShardState.DRAINED)
            )

    def _resize(self, version: int, wanted: int) -> None:
        """More shards, or fewer: the last ones take no more records then."""
        rows = self._sql.exec(
            "SELECT name FROM shards WHERE version = ?1 AND state = 0 ORDER BY position", version
        ).to_list()
        position: int = self._sql.exec("SELECT max(position) FROM shards WHERE version = ?1", version).one()[0]
        for number in range(len(rows), min(wanted, SHARDS_MAX)):
            self._add_shard(version, position + 1 + number - len(rows))
        for (name,) in rows[wanted:]:
            self._sql.exec("UPDATE shards SET state = ?1, told = 0 WHERE name = ?2", int(ShardState.CLOSED), name)
        log.info("shards_resized", pipeline=self.ctx.name, version=version, before=len(rows), after=wanted)
        self._wake_soon()

    # -- push ---------------------------------------------------------------------------------------------

    def _wake_soon(self) -> None:
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + _PUSH_RETRY_MS)

    async def _push(self) -> None:
        """Tell every shard what it does not know yet: first the settings of those that are to take records, and
        only then close those that they replace, so that there is always somebody to take them."""
        self._wake_soon()
        newest = self._versions()
        await self._tell("version = ?1 AND state = 0", newest)
        if not self._deleted and newest == self._versions():
            self._activate(newest)
        await self._tell("true")
        if self._deleted and not self._sql.exec("SELECT released FROM state").one()[0]:
            await self.ctx.namespace("Registry").get_by_name(REGISTRY).release(self.ctx.name)
            self._sql.exec("UPDATE state SET released = 1")
        if not self._shard_names("NOT told") and not self._must_be_removed:
            self.ctx.storage.delete_alarm()

    @property
    def _must_be_removed(self) -> bool:
        return bool(self._deleted) and not self._shard_names("state < ?1", int(ShardState.DRAINED))

    def _activate(self, version: int) -> None:
        if self._active == version:
            return
        self._sql.exec("UPDATE state SET active = ?1", version)
        self._sql.exec(
            "UPDATE shards SET state = ?1, told = 0 WHERE version < ?2 AND state = ?3",
            *(int(ShardState.CLOSED), version, int(ShardState.OPEN)),
        )

    async def _tell(self, condition: str, *bindings: Any) -> None:
        for name in self._shard_names(f"NOT told AND {condition}", *bindings):
            row = self._sql.exec("SELECT version, state FROM shards WHERE name = ?1", name).first()
            if row is None:
                continue
            version, state = row
            shard = self._shard(name)
            settings = self._settings_of(version)
            await shard.configure(_shard_config(self.ctx.name, version, settings))
            self._sql.exec("UPDATE shards SET ready = 1 WHERE name = ?1", name)
            if state == ShardState.CLOSED:
                await (shard.discard() if self._deleted == 2 else shard.close())
            # Unless it was decided otherwise meanwhile.
            if self._settings_of(version) == settings:
                self._sql.exec(
                    "UPDATE shards SET told = 1 WHERE name = ?1 AND state IN (?2, ?3)",
                    *(name, state, int(ShardState.DRAINED)),
                )

    async def _remove(self) -> None:
        """Leave nothing of a deleted pipeline whose records are all in the bucket."""
        for name in self._shard_names("true"):
            await self._shard(name).remove()
        self.ctx.storage.delete_all()
        self._sql.exec(_TABLES)
        log.info("pipeline_removed", pipeline=self.ctx.name)


def _state_in_words(version: int, active: int, drained_ms: int | None) -> str:
    if drained_ms is not None:
        return "drained"
    if version == active:
        return "active"
    return "opening" if version > active else "draining"


def _same_bucket(one: PipelineSettings, other: PipelineSettings) -> bool:
    if one.s3 is None or other.s3 is None or one.bucket != other.bucket:
        return False
    return one.s3.endpoint == other.s3.endpoint


def _shard_config(pipeline: str, version: int, settings: PipelineSettings) -> ShardConfig:
    recipe = Recipe(
        layout=settings.layout,
        version=version,
        transforms=[transform.name for transform in settings.transforms],
        partition_time=settings.partition_time,
    )
    # Records that choose their file by a time of their own may come at any time.
    span_ms = partition_ms(recipe.layout) if recipe.partition_time is None else None
    return ShardConfig(
        pipeline=pipeline,
        version=version,
        rolling=msgspec.structs.replace(settings.rolling, partition_ms=span_ms),
        bucket=settings.bucket,
        s3=settings.s3,
        recipe=recipe,
        scales=settings.shards is None,
        name=settings.name,
    )
