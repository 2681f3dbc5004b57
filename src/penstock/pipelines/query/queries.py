"""Queries over the records of pipelines: names into files, and a process that runs the SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import structlog
from msgspec import Struct

from penstock.base.errors import Forbidden, Invalid, NotFound, Overloaded
from penstock.base.limits import (
    QUERY_COPIED_BYTES_MAX,
    QUERY_MEMORY_BYTES_MAX,
    RECORDS_QUERIES_MAX,
    RECORDS_QUERY_MS_MAX,
    RECORDS_QUERY_RESULT_BYTES_MAX,
    RECORDS_QUERY_TABLES_MAX,
)
from penstock.objects import Runtime, Stub
from penstock.pipelines.query.messages import Answer, Asked, Found, Given, Named, Needed, Ready
from penstock.pipelines.query.process import CODE_QUERY, QueryProcess, StartQueryProcess
from penstock.pipelines.query.sources import Source, Workspace, remove_tree
from penstock.pipelines.registry import REGISTRY
from penstock.pipelines.registry import Named as NamedPipeline
from penstock.pipelines.stream_shard import CODE_UNKNOWN_PIPELINE

log = structlog.get_logger("penstock.pipelines")

#: Names of pipelines that an error shows.
_NAMES_SHOWN = 20


class QueryResult(Struct, frozen=True):
    """`rows` are JSON arrays, joined by commas. Of the files of the pipelines that the query names, `files_read`
    were looked at, `files_left_out` cannot hold what it asks for, and `files_missing` are not in their bucket any
    more. `forgotten_records` are in files that the server does not remember."""

    columns: list[str]
    types: list[str]
    rows: bytes
    truncated: bool
    files_read: int
    files_left_out: int
    files_missing: int
    forgotten_records: int


@dataclass(frozen=True, slots=True)
class Reader:
    """Who asks: `may_read` says of which pipelines, by name, `refusal` what is said of one that is not of them."""

    account: str
    may_read: Callable[[str], bool]
    refusal: Callable[[str], Forbidden]


class Queries:
    """Those of one executor. `folder` is for what queries copy, `buckets_folder` is where local buckets are."""

    def __init__(self, runtime: Runtime, start: StartQueryProcess, folder: str, buckets_folder: str) -> None:
        self._runtime = runtime
        self._start = start
        self._folder = folder
        self._buckets_folder = buckets_folder
        self._running = 0
        self._numbers = count(1)

    async def clean(self) -> None:
        """Remove what queries of a process before this one may have left."""
        ports = self._runtime.ports
        if ports.disk.is_dir(self._folder):
            await ports.offload.run("bulk", lambda: remove_tree(ports.disk, self._folder))

    async def run(self, reader: Reader, sql: str, live: bool, rows_max: int) -> QueryResult:
        """Raises `Invalid` for what is wrong with the query or takes too long, `NotFound` for a pipeline that is
        not there, `Forbidden` for one that the reader may not read, `TooLarge`, `Overloaded`, `Unavailable`."""
        if self._running >= RECORDS_QUERIES_MAX:
            raise Overloaded(
                f"{RECORDS_QUERIES_MAX} queries run on this executor already; try again later.", retry_after_s=5
            )
        self._running += 1
        workspace = Workspace(self._runtime, f"{self._folder}/{next(self._numbers)}", self._buckets_folder)
        try:
            async with asyncio.timeout(RECORDS_QUERY_MS_MAX / 1000):
                await workspace.open()
                process = await self._start()
                try:
                    return await self._run(process, workspace, reader, sql, live, rows_max)
                finally:
                    await process.end()
        except TimeoutError:
            raise Invalid(
                f"The query took longer than {RECORDS_QUERY_MS_MAX // 1000} s and was ended. Ask for fewer "
                "partitions (event_date, hr).",
                code=CODE_QUERY,
            ) from None
        finally:
            self._running -= 1
            await workspace.close()

    async def _run(
        self, process: QueryProcess, workspace: Workspace, reader: Reader, sql: str, live: bool, rows_max: int
    ) -> QueryResult:
        named = _of(Named, await process.ask(Asked(sql)))
        sources = await self._sources(workspace, reader, named, live)
        given = Given(
            {table: source.paths for table, source in sources.items()},
            rows_max=rows_max,
            result_bytes_max=RECORDS_QUERY_RESULT_BYTES_MAX,
            memory_bytes_max=QUERY_MEMORY_BYTES_MAX,
            spill_folder=workspace.spill_folder,
            spill_bytes_max=QUERY_COPIED_BYTES_MAX,
        )
        needed = _of(Needed, await process.ask(given)).paths
        missing = [path for table, paths in needed.items() for path in await workspace.fetch(sources[table], paths)]
        found = _of(Found, await process.ask(Ready(missing)))
        looked_at = sum(map(len, needed.values()))
        return QueryResult(
            found.columns,
            found.types,
            found.rows,
            found.truncated,
            files_read=looked_at - len(missing),
            files_left_out=sum(len(source.paths) for source in sources.values()) - looked_at,
            files_missing=len(missing),
            forgotten_records=sum(source.forgotten_records for source in sources.values()),
        )

    async def _sources(self, workspace: Workspace, reader: Reader, named: Named, live: bool) -> dict[str, Source]:
        if len(named.tables) + len(named.expressions) > RECORDS_QUERY_TABLES_MAX:
            raise Invalid(f"A query may name {RECORDS_QUERY_TABLES_MAX} pipelines at most.", code=CODE_QUERY)
        pipelines = {table: await self._pipeline(reader, table) for table in named.tables}
        for table in named.expressions:
            if found := await self._found(reader, table):
                pipelines[table] = found[0]
        sources = {}
        for number, (table, pipeline) in enumerate(pipelines.items()):
            source = await workspace.collect(pipeline.name, pipeline.id, number, live)
            if not source.paths and table in named.tables:
                instead = "yet" if live else "in a file yet; --live (live: true) adds those that wait for one"
                raise Invalid(f"Pipeline {pipeline.name!r} has no records {instead}.", code=CODE_QUERY)
            if source.paths:
                sources[table] = source
        return sources

    def _registry(self) -> Stub:
        return self._runtime.namespace("Registry").get_by_name(REGISTRY)

    async def _found(self, reader: Reader, table: str) -> list[NamedPipeline]:
        """Those of the pipelines that `table` may mean that may be read."""
        found: list[NamedPipeline] = await self._registry().find_table(reader.account, table)
        return [pipeline for pipeline in found if reader.may_read(pipeline.name)]

    async def _pipeline(self, reader: Reader, table: str) -> NamedPipeline:
        found = await self._found(reader, table)
        if len(found) == 1:
            return found[0]
        if found:
            names = " and ".join(_quoted(pipeline.name) for pipeline in found)
            raise Invalid(f"{table!r} may be {names}: write one of these.", code=CODE_QUERY)
        if not reader.may_read(table):
            # Whether it is there or not, which is not for everybody to know.
            raise reader.refusal(table)
        known: list[NamedPipeline] = await self._registry().named(reader.account, _NAMES_SHOWN + 1)
        readable = [pipeline.name for pipeline in known if reader.may_read(pipeline.name)]
        raise NotFound(
            f"There is no pipeline {table!r}." + (f" {_these(readable)}" if readable or not known else ""),
            code=CODE_UNKNOWN_PIPELINE,
        )


def _of(kind: type[Any], answer: Answer) -> Any:
    assert isinstance(answer, kind)
    return answer


def _these(names: Iterable[str]) -> str:
    shown = [_quoted(name) if "-" in name else name for name in names]
    if not shown:
        return "There is none yet."
    more = ", …" if len(shown) > _NAMES_SHOWN else ""
    return f"There are {', '.join(shown[:_NAMES_SHOWN])}{more}."


def _quoted(name: str) -> str:
    return f'"{name}"'
