"""Verifies a pipeline step by step: reads its ledgers and its buckets, and lets `verification` decide.

It keeps nothing: a cursor says where the next step goes on. First come the shards, the oldest generation's first,
then the buckets. Records may come in, files be delivered and settings change meanwhile: a file is in a ledger
before it is in the bucket, so who asks all ledgers that there are *after* a listing knows each file of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import Struct

from penstock.base.errors import NotFound
from penstock.base.limits import (
    LIST_PER_PAGE_MAX,
    VERIFY_HEADS_MAX,
    VERIFY_MS_MAX,
    VERIFY_OBJECTS_MAX,
    VERIFY_OTHERS_MAX,
    VERIFY_PROBLEMS_MAX,
    VERIFY_READS_MAX,
    VERIFY_SEGMENTS_MAX,
)
from penstock.objects import Runtime, Stub
from penstock.pipelines.coordinator import ShardRef
from penstock.pipelines.history import History, read_history
from penstock.pipelines.ledger import LedgerFile, Standing
from penstock.pipelines.registry import REGISTRY, Page
from penstock.pipelines.settings import PipelineSettings
from penstock.pipelines.stored_file import FileFacts, read_facts
from penstock.pipelines.verification import (
    Layouts,
    Place,
    Problem,
    ShardCheck,
    ShardCount,
    extra,
    is_older,
)
from penstock.storage.object_store import ObjectInfo, ObjectStore

T = TypeVar("T")
U = TypeVar("U")


class VerifyCursor(Struct, frozen=True, omit_defaults=True):
    """In the ledgers: the shard and the last segment looked at, and the record expected next. In the buckets, when
    `shard` is empty: the place, and the last key looked at."""

    shard: str = ""
    segment: str = ""
    next_record: int = 1
    place: Place | None = None
    root: str = ""
    key: str = ""


@dataclass(slots=True)
class BucketCount:
    """Objects seen where this pipeline's files go: its own, and others that are no problem: older than this
    pipeline or than its ledger, of another pipeline, or nothing that looks like a file of it."""

    objects: int = 0
    own: int = 0
    others: int = 0


@dataclass(slots=True)
class VerifyStep:
    """What one step found. `cursor` is None when nothing is left to look at."""

    shards: list[ShardCount] = field(default_factory=list)
    buckets: BucketCount = field(default_factory=BucketCount)
    problems: list[Problem] = field(default_factory=list)
    cursor: VerifyCursor | None = None


class Verifier:
    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.ports = runtime.ports

    async def step(self, account: str, id: str, cursor: VerifyCursor, *, deep: bool) -> VerifyStep:
        """Look at the next part of the pipeline with this id, for about `VERIFY_MS_MAX`; `deep`: read its files.

        Raises `NotFound` if it is deleted, `Unavailable`, and what the bucket's store does."""
        pipeline = await read_history(self.runtime, id)
        step = VerifyStep()
        end_ms = self.ports.clock.elapsed_ms() + VERIFY_MS_MAX
        if cursor.place is None:
            step.cursor = await _Shards(self, pipeline, step, end_ms, deep).run(cursor)
        else:
            step.cursor = await _Buckets(self, pipeline, step, end_ms, account, id).run(cursor)
        return step

    def shard(self, name: str) -> Stub:
        return self.runtime.namespace("StreamShard").get_by_name(name)

    async def facts(self, store: ObjectStore, key: str, settings: PipelineSettings) -> FileFacts | None:
        """None if there is no such file."""
        try:
            return await read_facts(store, self.ports.offload, settings.bucket, key, settings.compression)
        except NotFound:
            return None

    def is_time(self, end_ms: int) -> bool:
        return self.ports.clock.elapsed_ms() >= end_ms

    async def standings(self, shards: Sequence[ShardRef], files: list[tuple[str, str]]) -> dict[str, Standing]:
        """Of files, by key: "known" if one of the shards knows it, "forgotten" if one may have; no other is there.
        Each shard is asked about those that none before it knew."""
        found: dict[str, Standing] = {}
        for shard in reversed(shards):  # most files are of the newest
            asked = [file for file in files if found.get(file[1]) != "known"]
            if not asked:
                break
            answers: list[Standing] = await self.shard(shard.name).standings(asked)
            for (_, key), standing in zip(asked, answers, strict=True):
                if standing != "unknown":
                    found[key] = standing
        return found

    async def others(self, account: str, id: str) -> list[History]:
        """The account's other pipelines, `VERIFY_OTHERS_MAX` of them at most."""
        registry = self.runtime.namespace("Registry").get_by_name(REGISTRY)
        found: list[History] = []
        for offset in range(0, VERIFY_OTHERS_MAX, LIST_PER_PAGE_MAX):
            page: Page = await registry.list(account, "", offset, LIST_PER_PAGE_MAX)
            for other in page.ids:
                if other != id:
                    try:
                        found.append(await read_history(self.runtime, other))
                    except NotFound:
                        continue  # deleted since
            if offset + LIST_PER_PAGE_MAX >= page.total:
                return found
        raise _TooManyOthers


class _TooManyOthers(Exception):
    pass


class _Shards:
    """The ledgers, and the files that they say there are."""

    def __init__(self, verifier: Verifier, pipeline: History, step: VerifyStep, end_ms: int, deep: bool) -> None:
        self._verifier = verifier
        self._pipeline = pipeline
        self._step = step
        self._end_ms = end_ms
        self._at_once = VERIFY_READS_MAX if deep else VERIFY_HEADS_MAX
        self._deep = deep
        self._segments = 0

    async def run(self, cursor: VerifyCursor) -> VerifyCursor:
        refs = self._pipeline.shards
        names = [ref.name for ref in refs]
        # A pipeline that is made anew under its name has other shards: from the beginning then.
        index = names.index(cursor.shard) if cursor.shard in names else 0
        if not cursor.shard or cursor.shard not in names:
            cursor = VerifyCursor(refs[0].name)
        while True:  # at least one page, so that steps come to an end however little time there is
            after = await self._shard(refs[index], cursor)
            if after is not None:
                return after
            index += 1
            if index == len(refs):
                return VerifyCursor(place=min(self._pipeline.layouts()))
            cursor = VerifyCursor(refs[index].name)
            if self._is_enough:
                return cursor

    @property
    def _is_enough(self) -> bool:
        return (
            self._segments >= VERIFY_SEGMENTS_MAX
            or len(self._step.problems) >= VERIFY_PROBLEMS_MAX
            or self._verifier.is_time(self._end_ms)
        )

    async def _shard(self, ref: ShardRef, cursor: VerifyCursor) -> VerifyCursor | None:
        """Go through the shard's ledger; None at its end, else where to go on."""
        settings = self._pipeline.settings_of(ref.version)
        count = ShardCount(ref.name, ref.version, ref.state)
        self._step.shards.append(count)
        check = ShardCheck(count, settings.bucket, not settings.transforms, cursor.next_record)
        after = cursor.segment
        while True:
            page = await self._verifier.shard(ref.name).ledger(after, self._at_once)
            check.begin_page(page)
            files: dict[str, list[LedgerFile]] = {}
            for file in page.files:
                files.setdefault(file.segment, []).append(file)
            wanted = []
            for segment in page.segments:
                wanted += check.take(segment, files.get(segment.ulid, []))
                after = segment.ulid
            await self._look_at(check, wanted, settings)
            self._step.problems += check.problems
            check.problems.clear()
            self._segments += len(page.segments)
            if not page.more:
                check.end_shard(page)
                self._step.problems += check.problems
                return None
            if self._is_enough:
                return VerifyCursor(ref.name, after, check.next_record)

    async def _look_at(self, check: ShardCheck, files: list[LedgerFile], settings: PipelineSettings) -> None:
        store = self._pipeline.store(self._verifier.ports, settings)
        bucket = settings.bucket

        async def look(file: LedgerFile) -> tuple[int | None, FileFacts | None]:
            info = await store.head(bucket, file.key)
            if info is None or not self._deep:
                return (info.size_bytes if info else None), None
            facts = await self._verifier.facts(store, file.key, settings)
            return (facts.size_bytes if facts else None), facts

        found = await _in_turns(look, files, self._at_once)
        if any(size_bytes is None for size_bytes, _ in found):
            # Are the files missing, or the whole bucket? This says so.
            await store.list(bucket, files[0].key, limit=1)
        for file, (size_bytes, facts) in zip(files, found, strict=True):
            check.file(file, size_bytes, facts)


class _Buckets:
    """The objects that look like files of the pipeline."""

    def __init__(
        self, verifier: Verifier, pipeline: History, step: VerifyStep, end_ms: int, account: str, id: str
    ) -> None:
        self._verifier = verifier
        self._pipeline = pipeline
        self._step = step
        self._end_ms = end_ms
        self._account = account
        self._id = id

    async def run(self, cursor: VerifyCursor) -> VerifyCursor | None:
        layouts = self._pipeline.layouts()
        todo = [(place, root) for place in layouts for root in layouts[place].roots()]
        assert cursor.place is not None
        at = (cursor.place, cursor.root)
        for place, root in (each for each in todo if each >= at):
            after = cursor.key if (place, root) == at else ""
            store = self._pipeline.store_at(self._verifier.ports, place)
            while True:
                objects = await store.list(place.bucket, root, after=after, limit=VERIFY_OBJECTS_MAX)
                await self._judge(place, layouts[place], objects)
                if len(objects) < VERIFY_OBJECTS_MAX:
                    break
                after = objects[-1].key
                if self._verifier.is_time(self._end_ms) or len(self._step.problems) >= VERIFY_PROBLEMS_MAX:
                    return VerifyCursor(place=place, root=root, key=after)
        return None

    async def _judge(self, place: Place, layouts: Layouts, objects: Sequence[ObjectInfo]) -> None:
        counts = self._step.buckets
        counts.objects += len(objects)
        suspects = {info.key: (ulid, info) for info in objects if (ulid := layouts.ulid_of(info.key)) is not None}
        standings = await self._verifier.standings(
            self._pipeline.shards, [(ulid, key) for key, (ulid, _) in suspects.items()]
        )
        if len(standings) < len(suspects):
            # There may be more shards by now, whose files the listing has already.
            newer = await read_history(self._verifier.runtime, self._id)
            asked = [(ulid, key) for key, (ulid, _) in suspects.items() if key not in standings]
            standings |= await self._verifier.standings(newer.shards, asked)
        own = sum(standing == "known" for standing in standings.values())
        suspects = {
            key: (ulid, info)
            for key, (ulid, info) in suspects.items()
            if key not in standings and not is_older(ulid, self._pipeline.created_ms)
        }
        found = await self._without_others(place, suspects)
        self._step.problems += [extra(place, info.key, info.size_bytes) for info in found]
        counts.own += own
        counts.others += len(objects) - own - len(found)

    async def _without_others(self, place: Place, suspects: dict[str, tuple[str, ObjectInfo]]) -> list[ObjectInfo]:
        """Those that are in no ledger of another pipeline either."""
        if not suspects:
            return []
        try:
            others = await self._verifier.others(self._account, self._id)
        except _TooManyOthers:
            return []
        for other in others:
            layouts = other.layouts().get(place)
            if layouts is None or not suspects:
                continue
            files = [(ulid, key) for key in suspects if (ulid := layouts.ulid_of(key)) is not None]
            standings = await self._verifier.standings(other.shards, files) if files else {}
            suspects = {key: value for key, value in suspects.items() if key not in standings}
        return [info for _, info in suspects.values()]


async def _in_turns(work: Callable[[T], Awaitable[U]], items: Sequence[T], at_once: int) -> list[U]:
    """The results, in order. When one fails, those that began with it end first."""
    results: list[U] = []
    for start in range(0, len(items), at_once):
        done = await asyncio.gather(*map(work, items[start : start + at_once]), return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result
            results.append(result)
    return results
