"""The files in which the records of a pipeline are, and bringing near what DuckDB cannot read in place.

Files in the folders of this machine are read where they are. Those in buckets elsewhere, and those compressed with
deflate, which DuckDB does not know, are copied into the query's folder, once it is known which ones are needed.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import msgspec

from penstock.base.errors import Corrupt, NotFound, TooLarge
from penstock.base.limits import QUERY_COPIED_BYTES_MAX, QUERY_FILES_MAX
from penstock.objects import Runtime
from penstock.pipelines.layout import Compression, file_key
from penstock.pipelines.snapshot import SnapshotFiles, SnapshotHead, SnapshotRows, decode_frames
from penstock.storage.connection import S3Connection
from penstock.storage.disk import Disk

#: What means something else than itself in a path that DuckDB is given.
_PATTERN = re.compile(r"[*?\[\]{}\\]")
#: By its name DuckDB knows how a file is compressed. What it does not know is inflated when it is copied.
_ENDINGS: dict[Compression, str] = {"none": ".json", "gzip": ".gz", "zstd": ".zst", "deflate": ".json"}


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that is to be copied to where the query expects it."""

    s3: S3Connection | None
    bucket: str
    key: str
    deflated: bool


@dataclass(slots=True)
class Source:
    """The files of a table: `paths` are there already, but for those in `remote`."""

    pipeline: str
    paths: list[str] = field(default_factory=list)
    remote: dict[str, Remote] = field(default_factory=dict)
    #: Paths whose records are in no file yet.
    live: list[str] = field(default_factory=list)
    #: Records that were delivered so long ago that the shards do not remember their files.
    forgotten_records: int = 0


class Workspace:
    """The folder of one query: what it has copied, which is bounded, and gone at the end."""

    def __init__(self, runtime: Runtime, folder: str, buckets_folder: str) -> None:
        self._runtime = runtime
        self._disk = runtime.ports.disk
        self.folder = folder
        self._buckets_folder = buckets_folder
        self._copied_bytes = 0

    @property
    def spill_folder(self) -> str:
        return f"{self.folder}/spill"

    async def open(self) -> None:
        await self._beside(partial(self._disk.make_dirs, self.spill_folder))

    async def close(self) -> None:
        await self._beside(partial(remove_tree, self._disk, self.folder))

    async def collect(self, pipeline: str, id: str, table: int, live: bool) -> Source:
        """All files of a pipeline; with `live`, the records in none are written into some. Raises `NotFound`,
        `Unavailable`, `TooLarge`."""
        source = Source(pipeline)
        names: list[str] = await self._runtime.namespace("Coordinator").get_by_name(id).shard_names()
        for number, name in enumerate(names):
            shard = self._runtime.namespace("StreamShard").get_by_name(name)
            async with contextlib.aclosing(await shard.snapshot(live)) as stream:
                await self._collect_shard(source, f"{self.folder}/{table}", number, stream)
        return source

    async def _collect_shard(self, source: Source, folder: str, number: int, stream: AsyncIterator[bytes]) -> None:
        head: SnapshotHead | None = None
        async for frame in decode_frames(stream):
            if isinstance(frame, SnapshotHead):
                head = frame
                source.forgotten_records += frame.first_record - 1
                continue
            assert head is not None
            if isinstance(frame, SnapshotFiles):
                for key in frame.keys:
                    self._add_file(source, folder, head, key)
                if len(source.paths) > QUERY_FILES_MAX:
                    raise TooLarge(
                        f"{source.pipeline!r} has more than {QUERY_FILES_MAX:,} files, which is what one query can "
                        "look at. Read the bucket itself with DuckDB, or make fewer, larger files (batch)."
                    )
            else:
                await self._add_rows(source, f"{folder}/live", number, head, frame)

    def _add_file(self, source: Source, folder: str, head: SnapshotHead, key: str) -> None:
        path = f"{self._buckets_folder}/{head.bucket}/{key}"
        compression = head.layout.compression
        deflated = compression == "deflate"
        readable = _readable(key, compression)
        if head.s3 is not None or deflated or readable != key:
            path = f"{folder}/copied/{readable}"
            source.remote[path] = Remote(head.s3, head.bucket, key, deflated)
        source.paths.append(path)

    async def _add_rows(
        self, source: Source, folder: str, number: int, head: SnapshotHead, rows: SnapshotRows
    ) -> None:
        """Records are put where their file would be, so that they have the same columns."""
        layout = msgspec.structs.replace(head.layout, compression="none")
        slug = f"live-{number}"
        key = f"{slug}.json" if head.own_time else _readable(file_key(layout, rows.received_ms, slug), "none")
        path = f"{folder}/{key}"
        if path not in source.live:
            source.live.append(path)
            source.paths.append(path)
        await self._write(path, rows.ndjson)

    async def fetch(self, source: Source, paths: list[str]) -> list[str]:
        """Copy what is needed of the remote files. Gives those of `paths` that are not in the bucket any more."""
        missing = []
        for path in paths:
            remote = source.remote.get(path)
            if remote is None:
                if not self._disk.exists(path):
                    missing.append(path)
            elif not await self._copy(path, remote):
                missing.append(path)
        return missing

    async def _copy(self, path: str, remote: Remote) -> bool:
        ports = self._runtime.ports
        store = ports.buckets if remote.s3 is None else ports.s3.at(remote.s3)
        inflate = zlib.decompressobj() if remote.deflated else None
        try:
            async with contextlib.aclosing(store.read(remote.bucket, remote.key)) as pieces:
                async for piece in pieces:
                    while piece:
                        plain = piece
                        piece = b""
                        if inflate is not None:
                            plain = inflate.decompress(plain, 1 << 20)
                            piece = inflate.unconsumed_tail
                        await self._write(path, plain)
        except NotFound:
            return False
        except zlib.error as error:
            raise Corrupt(f"{remote.key} in {remote.bucket!r} is no deflate file: {error}.") from error
        return True

    async def _write(self, path: str, data: bytes) -> None:
        self._copied_bytes += len(data)
        if self._copied_bytes > QUERY_COPIED_BYTES_MAX:
            raise TooLarge(
                f"The query needs more than {QUERY_COPIED_BYTES_MAX:,} bytes that are not in a file on this "
                "machine (files of buckets elsewhere, records that wait for a file). Ask for fewer partitions "
                "(event_date, hr)."
            )
        await self._beside(partial(self._append, path, data))

    def _append(self, path: str, data: bytes) -> None:
        self._disk.make_dirs(posixpath.dirname(path))
        self._disk.append(path, data)

    async def _beside(self, work: partial[None]) -> None:
        await self._runtime.ports.offload.run("bulk", work)


def remove_tree(disk: Disk, folder: str) -> None:
    """A folder with all that is in it; no error when there is none. Blocks."""
    for name in disk.list_dir(folder):
        path = f"{folder}/{name}"
        if disk.is_dir(path):
            remove_tree(disk, path)
        else:
            disk.remove(path)
    disk.remove_dir(folder)


def _readable(key: str, compression: Compression) -> str:
    """`key`, or another, as a name by which DuckDB reads a file of this compression as what it is."""
    name, ending = _PATTERN.sub("_", key), _ENDINGS[compression]
    taken_for = next((known for known in (".gz", ".zst") if name.lower().endswith(known)), ".json")
    return name if taken_for == ending else name + ending
