"""Buckets, as a port: whole objects under keys.

An object becomes visible whole or not at all, and putting the same bytes under the same key again changes
nothing. Together with names that are fixed before the bytes are made, that is exactly-once delivery.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol

from penstock.base.errors import Invalid, NotFound
from penstock.base.limits import READ_CHUNK_BYTES
from penstock.storage.bucket_names import check_key
from penstock.storage.connection import S3Connection
from penstock.storage.database import translated_errors
from penstock.storage.disk import Disk, ReadFile
from penstock.storage.offload import Offload

#: Makes an object's bytes, piece by piece. Called beside the loop, and again for each new try: it must give the
#: same bytes each time.
Chunks = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """What each call raises, and what a caller does about it. Messages name the place, the bucket, the key and what
    to do, and never a secret.

    - `Unavailable`: connection, timeout, 5xx, 408, 429, "slow down". Try again, for ever. A `put` or `delete` may
      have happened all the same: the answer may have been lost. Doing it again is harmless.
    - `StorageFull`: no room left, or a quota is used up (507). Try again: it works when there is room.
    - `Forbidden`: the credentials are refused, or do not cover this (401, 403). Nothing is lost by waiting: it
      works again once somebody gives a right or other credentials.
    - `BucketNotFound`, a `NotFound`: there is no such bucket; as `Forbidden`. (Folders never raise it: a bucket is
      there as soon as something is in it.)
    - `NotFound`: there is no such object; only `get` and `read` raise it.
    - `Invalid`: any other 4xx. It never works like this.
    """

    async def put(self, bucket: str, key: str, chunks: Chunks) -> int:
        """Store an object, replacing one of the same key; durable and visible on return, whole or not at all. Gives
        its size. What `chunks` raises passes through."""
        ...

    async def get(self, bucket: str, key: str) -> bytes:
        """The object's bytes, all in memory: for small ones."""
        ...

    def read(self, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
        """The object's bytes in pieces of a few MiB at most, all of one version of the object. Errors come with the
        first or any later piece. Who stops early closes it (`contextlib.aclosing`)."""
        ...

    async def head(self, bucket: str, key: str) -> ObjectInfo | None:
        """Whether an object is there, and its size; None if it is not, or (elsewhere) if its bucket is not."""
        ...

    async def delete(self, bucket: str, key: str) -> None:
        """Remove an object, durably; harmless when there is none."""
        ...

    async def list(
        self, bucket: str, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Sequence[ObjectInfo]:
        """The objects whose key starts with `prefix` and is greater than `after`, sorted by key, at most `limit`:
        page by page if `after` is the last key of the page before. Without a `limit` it is all of them: for buckets
        that are known to be small."""
        ...


class S3Stores(Protocol):
    """Buckets elsewhere, over the S3 protocol."""

    def at(self, connection: S3Connection) -> ObjectStore:
        """The buckets of a connection. Does not block and does not connect. Raises `Unavailable` if its credentials
        cannot be opened, because the secret key is gone."""
        ...


class NoS3:
    """Implements `S3Stores` where there are none."""

    def at(self, connection: S3Connection) -> ObjectStore:
        raise Invalid(f"Buckets at {connection.endpoint} cannot be reached: this process was built without S3.")


class FolderStore:
    """Buckets are folders below `root`; an object is a file.

    A file is written under a temporary name outside the bucket and synced, then renamed, then its folder is
    synced: so a reader of the bucket never sees a part of one, and a crash leaves at most a temporary file, which
    the next try replaces because its name is derived from the key.
    """

    def __init__(self, disk: Disk, offload: Offload, root: str, temporary: str) -> None:
        self._disk = disk
        self._offload = offload
        self._root = root
        self._temporary = temporary

    async def put(self, bucket: str, key: str, chunks: Chunks) -> int:
        return await self._offload.run("bulk", partial(self._put, bucket, key, chunks))

    def _put(self, bucket: str, key: str, chunks: Chunks) -> int:
        target = self._path(bucket, key)
        unfinished = posixpath.join(self._temporary, hashlib.sha256(target.encode()).hexdigest())
        with translated_errors(target):
            self._disk.make_dirs(self._temporary)
            self._disk.make_dirs(posixpath.dirname(target))
            try:
                size = self._disk.write(unfinished, chunks())
            except Exception:
                self._disk.remove(unfinished)  # on a full disk its room is needed
                raise
            self._disk.rename(unfinished, target)
            self._disk.sync_dir(posixpath.dirname(target))
        return size

    async def get(self, bucket: str, key: str) -> bytes:
        return await self._offload.run("bulk", partial(self._get, bucket, key))

    def _get(self, bucket: str, key: str) -> bytes:
        path = self._existing_path(bucket, key)
        with translated_errors(path):
            return self._disk.read(path)

    def _existing_path(self, bucket: str, key: str) -> str:
        path = self._path(bucket, key)
        if not self._disk.exists(path) or self._disk.is_dir(path):
            raise NotFound(f"There is no {key[:200]!r} in the bucket {bucket}.")
        return path

    async def read(self, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
        path = self._path(bucket, key)
        file = await self._offload.run("bulk", partial(self._open, bucket, key))
        try:
            offset = 0
            while piece := await self._offload.run("bulk", partial(self._read, file, path, offset)):
                offset += len(piece)
                yield piece
        finally:
            file.close()

    def _open(self, bucket: str, key: str) -> ReadFile:
        path = self._existing_path(bucket, key)
        with translated_errors(path):
            return self._disk.open_read(path)

    def _read(self, file: ReadFile, path: str, offset: int) -> bytes:
        with translated_errors(path):
            return file.read(offset, READ_CHUNK_BYTES)

    async def head(self, bucket: str, key: str) -> ObjectInfo | None:
        return await self._offload.run("bulk", partial(self._info, self._path(bucket, key), key))

    def _info(self, path: str, key: str) -> ObjectInfo | None:
        if self._disk.is_dir(path):
            return None
        with translated_errors(path):
            try:
                return ObjectInfo(key, self._disk.size(path))
            except (FileNotFoundError, NotADirectoryError):
                return None

    async def delete(self, bucket: str, key: str) -> None:
        await self._offload.run("bulk", partial(self._delete, self._path(bucket, key)))

    def _delete(self, path: str) -> None:
        folder = posixpath.dirname(path)
        if self._disk.is_dir(path) or not self._disk.is_dir(folder):
            return
        with translated_errors(path):
            self._disk.remove(path)
            # Also where there was no file: the try before this one may have removed it and got no further. Folders
            # stay, since a put may be about to use them.
            self._disk.sync_dir(folder)

    async def list(
        self, bucket: str, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Sequence[ObjectInfo]:
        return await self._offload.run("bulk", partial(self._list, bucket, prefix, after, limit))

    def _list(self, bucket: str, prefix: str, after: str, limit: int | None) -> Sequence[ObjectInfo]:
        folder = self._path(bucket)
        with translated_errors(folder):
            return list(islice(self._walk(folder, "", prefix, after), limit))

    def _walk(self, folder: str, below: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Sorted by key. Looks into no folder, and at no file, that cannot hold what is asked for."""
        keys = []
        for name in self._disk.list_dir(posixpath.join(folder, below)):
            key = below + name
            may_match = key.startswith(prefix) or prefix.startswith(key)
            if may_match and (key > after or after.startswith(key)):
                # A folder sorts as what its keys start with: "a-b" comes before "a/b", and both before "a0".
                keys.append(key + "/" if self._disk.is_dir(posixpath.join(folder, key)) else key)
        for key in sorted(keys):
            if key.endswith("/"):
                yield from self._walk(folder, key, prefix, after)
            elif key.startswith(prefix) and key > after:
                info = self._info(posixpath.join(folder, key), key)
                if info is not None:  # else deleted meanwhile
                    yield info

    def _path(self, bucket: str, key: str | None = None) -> str:
        """Raises `Invalid` for what would lead out of the bucket."""
        # Names are checked where they enter (pipelines/settings.py, objects/buckets.py); this is the second look
        # before the disk.
        if "/" in bucket:
            raise Invalid(f"The bucket's name {bucket[:100]!r} has a slash.")
        check_key(bucket)
        if key is not None:
            check_key(key)
        return posixpath.join(self._root, bucket, *(() if key is None else (key,)))
