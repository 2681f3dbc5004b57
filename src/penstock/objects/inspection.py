"""Objects as an operator sees them: what there is, how it is, and read-only SQL on one of them.

Nobody is woken by being looked at. What is read of a database comes through the executor that owns it, on a
connection beside the object's own, if the object is in memory at all: an object that does not start can be looked
at, too. As everywhere, nothing is shown before it is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from penstock.base.errors import Internal, NotFound, PenstockError, Unavailable
from penstock.base.limits import QUERY_MS_MAX, QUERY_RESULT_BYTES_MAX
from penstock.objects import remote
from penstock.objects.inscription import read_name
from penstock.objects.placement import owner
from penstock.objects.removal import objects_folder
from penstock.objects.runtime import Runtime
from penstock.objects.sandbox import LIMITS
from penstock.storage.database import translated_errors
from penstock.storage.read_only import Bounds, Found, open_read_only, query

#: What a sibling's question begins with. A call to an object is a msgpack array and never starts like this.
PREFIX = b"inspect"


class AlarmState(Struct, frozen=True):
    """`retries` of `at_ms` were made; after the last it is `failed` and fires no more."""

    at_ms: int
    retries: int
    failed: bool


class Description(Struct, frozen=True):
    """One object. `name` is None where it is not known: the object never started to the end. `size_bytes` is the
    size of its database and its log. `last_active_ms` is when its files were last written if it is not in memory.
    `error` says why nothing else could be read: its database is damaged, say. Failures are those since its executor
    started."""

    id: str
    name: str | None
    active: bool
    size_bytes: int
    last_active_ms: int
    alarm: AlarmState | None
    error: str | None = None
    failures: int = 0
    last_failure: str | None = None
    last_failure_ms: int | None = None


class _Question(Struct, array_like=True, frozen=True):
    method: str
    args: bytes


class _Stored(Struct, frozen=True):
    """What is known of an object from its files."""

    name: str | None
    alarm: AlarmState | None
    size_bytes: int
    modified_ms: int
    error: str | None = None


class Inspector:
    """The objects of one executor. Its public methods can be asked for by a sibling."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ports = runtime.ports
        #: One query at a time, so that the threads for bulk work are never all taken by them.
        self._querying = asyncio.Lock()

    async def describe(self, namespace: str, keys: list[str]) -> list[Description]:
        """Those of the objects that there are."""
        stored = await self._read(namespace, keys)
        return [self._described(namespace, key, stored[key]) for key in keys if key in stored]

    async def query(self, namespace: str, key: str, sql: str, rows_max: int) -> Found:
        """Raises `NotFound`, `Invalid`, `Unavailable`."""
        path, disk, clock = self._runtime.path(namespace, key), self._ports.disk, self._ports.clock
        bounds = Bounds(QUERY_MS_MAX, rows_max, QUERY_RESULT_BYTES_MAX)

        def work() -> Found:
            with open_read_only(disk, path, LIMITS) as connection:
                found = query(connection, sql, bounds, clock)
            self._sync_log(path)
            return found

        async with self._querying:
            await self._wait_started(namespace, [key])
            found = await self._ports.offload.run("bulk", work)
        await self._wait_shipped(namespace, [key])
        return found

    async def _read(self, namespace: str, keys: list[str]) -> dict[str, _Stored]:
        def work() -> dict[str, _Stored]:
            stored = {}
            for key in keys:
                path = self._runtime.path(namespace, key)
                try:
                    stored[key] = self._read_one(path)
                except NotFound:
                    continue
                except PenstockError as error:
                    # The others are to be seen all the same.
                    stored[key] = _Stored(None, None, *self._files(path), error.message)
            return stored

        await self._wait_started(namespace, keys)
        stored = await self._ports.offload.run("bulk", work)
        await self._wait_shipped(namespace, keys)
        return stored

    def _read_one(self, path: str) -> _Stored:
        disk = self._ports.disk
        with open_read_only(disk, path) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            name = read_name(connection.execute) if "_penstock_meta" in tables else None
            alarm = None
            if "_penstock_alarm" in tables:
                row = connection.execute("SELECT at_ms, retries, failed FROM _penstock_alarm").fetchone()
                alarm = AlarmState(row[0], row[1], bool(row[2])) if row else None
        self._sync_log(path)
        return _Stored(name, alarm, *self._files(path))

    def _files(self, path: str) -> tuple[int, int]:
        """The size of an object's files in bytes, and when they were last written."""
        disk = self._ports.disk
        files = [file for file in (path, path + "-wal") if disk.exists(file)]
        try:
            return sum(map(disk.size, files)), max(map(disk.modified_ms, files), default=0)
        except FileNotFoundError as error:
            raise Unavailable("The object is being opened or closed.", retry_after_s=1) from error

    def _sync_log(self, path: str) -> None:
        """What was read of a log that a killed process left may be in the page cache only."""
        try:
            log = self._ports.disk.open_wal(path + "-wal")
        except FileNotFoundError:
            return
        with translated_errors(path), contextlib.closing(log):
            log.sync()

    async def _wait_started(self, namespace: str, keys: Iterable[str]) -> None:
        """A database that is being made cannot be read, nor be made while somebody reads."""
        for key in keys:
            activation = self._runtime.active_object(namespace, key)
            if activation is not None:
                await activation.wait_started()

    async def _wait_shipped(self, namespace: str, keys: Iterable[str]) -> None:
        for key in keys:
            activation = self._runtime.active_object(namespace, key)
            if activation is not None:
                await activation.wait_started()
                await activation.wait_shipped()

    def _described(self, namespace: str, key: str, stored: _Stored) -> Description:
        activation = self._runtime.active_object(namespace, key)
        failure = self._runtime.failures.of(namespace, key)
        last_active_ms = stored.modified_ms
        if activation is not None:
            idle_s = asyncio.get_running_loop().time() - activation.last_used_s
            last_active_ms = self._ports.clock.now_ms() - round(idle_s * 1000)
        return Description(
            id=key,
            name=stored.name,
            active=activation is not None,
            size_bytes=stored.size_bytes,
            last_active_ms=last_active_ms,
            alarm=stored.alarm,
            error=stored.error,
            failures=failure.count if failure else 0,
            last_failure=failure.text if failure else None,
            last_failure_ms=failure.at_ms if failure else None,
        )


_METHODS = remote.methods_of(Inspector)
_question_decoder = msgspec.msgpack.Decoder(_Question)


class Inspection:
    """The objects of all executors, from any of them."""

    def __init__(self, runtime: Runtime, folder: str) -> None:
        self._runtime = runtime
        self._folder = folder
        self._inspector = Inspector(runtime)

    async def keys(self, namespace: str, after: str, limit: int) -> list[str]:
        """The keys of at most `limit` objects that follow `after`, in order."""
        disk, root = self._runtime.ports.disk, objects_folder(self._folder, namespace)

        def work() -> list[str]:
            keys: list[str] = []
            for part in disk.list_dir(root):
                if part >= after[:2] and len(keys) < limit:
                    names = disk.list_dir(f"{root}/{part}")
                    found = [name.removesuffix(".db") for name in names if name.endswith(".db")]
                    keys += [key for key in found if key > after]
            return keys[:limit]

        return await self._runtime.ports.offload.run("bulk", work)

    async def describe(self, namespace: str, keys: list[str]) -> list[Description]:
        """Those of the objects that there are, in the order of `keys`. Raises `Unavailable` when an executor does
        not answer."""
        by_slot: dict[int, list[str]] = {}
        for key in keys:
            by_slot.setdefault(self._owner(key), []).append(key)
        found: dict[str, Description] = {}
        for slot, theirs in sorted(by_slot.items()):
            descriptions: list[Description] = await self._ask(slot, "describe", namespace, theirs)
            found |= {description.id: description for description in descriptions}
        return [found[key] for key in keys if key in found]

    async def query(self, namespace: str, key: str, sql: str, rows_max: int) -> Found:
        """The rows of one SELECT on one object, at most `rows_max`. Raises `NotFound`, `Invalid`, `Unavailable`."""
        found: Found = await self._ask(self._owner(key), "query", namespace, key, sql, rows_max)
        return found

    def _owner(self, key: str) -> int:
        return owner(key, self._runtime.executors)

    async def _ask(self, slot: int, name: str, *args: Any) -> Any:
        if slot == self._runtime.slot:
            return await getattr(self._inspector, name)(*args)
        method = _METHODS[name]
        question = PREFIX + msgspec.msgpack.encode(_Question(name, method.encode_args(args)))
        answer = await self._runtime.ports.transport.request(slot, question)
        return method.decode_result(remote.result_of(answer))

    async def answer(self, payload: bytes) -> bytes:
        """Serve a sibling's question. Errors are answers."""
        try:
            question = _question_decoder.decode(payload[len(PREFIX) :])
            args = _METHODS[question.method].decode_args(question.args)
            return remote.encode_result(await getattr(self._inspector, question.method)(*args))
        except PenstockError as error:
            return remote.encode_error(error)
        except (msgspec.MsgspecError, KeyError) as error:
            return remote.encode_error(Internal(f"A question could not be understood: {error!r}."))
