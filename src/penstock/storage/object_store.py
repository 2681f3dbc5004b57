"""Buckets, as a port: whole objects under keys.

An object becomes visible whole or not at all, and putting the same bytes under the same key again changes
nothing. Together with names that are fixed before the bytes are made, that is exactly-once delivery.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from penstock.base.errors import NotFound
from penstock.storage.database import translated_errors
from penstock.storage.disk import Disk
from penstock.storage.offload import Offload

#: Makes an object's bytes, piece by piece. Called beside the loop, and again for each new try: it must give the
#: same bytes each time.
Chunks = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    size_bytes: int


class ObjectStore(Protocol):
    async def put(self, bucket: str, key: str, chunks: Chunks) -> int:
        """Store an object, replacing one of the same key; durable and visible on return. Gives its size.

        Raises `Unavailable` or `StorageFull` when it may succeed later (the object may be there all the same:
        the answer may have been lost), `Invalid` when it never will.
        """
        ...

    async def get(self, bucket: str, key: str) -> bytes:
        """The object's bytes. Raises `NotFound`."""
        ...

    async def list(self, bucket: str, prefix: str = "") -> Sequence[ObjectInfo]:
        """The objects whose key starts with `prefix`, sorted by key; empty if there is no such bucket."""
        ...


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
        return await self._offload.run("bulk", partial(self._get, self._path(bucket, key)))

    def _get(self, path: str) -> bytes:
        if not self._disk.exists(path) or self._disk.is_dir(path):
            raise NotFound(f"There is no object at {path}.")
        with translated_errors(path):
            return self._disk.read(path)

    async def list(self, bucket: str, prefix: str = "") -> Sequence[ObjectInfo]:
        return await self._offload.run("bulk", partial(self._list, bucket, prefix))

    def _list(self, bucket: str, prefix: str) -> Sequence[ObjectInfo]:
        folder = self._path(bucket)
        found = [ObjectInfo(key, self._disk.size(posixpath.join(folder, key))) for key in self._walk(folder, "")]
        return sorted((info for info in found if info.key.startswith(prefix)), key=lambda info: info.key)

    def _walk(self, folder: str, below: str) -> Iterator[str]:
        for name in self._disk.list_dir(posixpath.join(folder, below)):
            key = posixpath.join(below, name)
            if self._disk.is_dir(posixpath.join(folder, key)):
                yield from self._walk(folder, key)
            else:
                yield key

    def _path(self, bucket: str, key: str | None = None) -> str:
        # Names are validated where they enter (pipelines/settings.py); this is the second look before the disk.
        parts = [bucket] if key is None else [bucket, *key.split("/")]
        assert "/" not in bucket, bucket
        assert all(part not in ("", ".", "..") and "\0" not in part for part in parts), (bucket, key)
        return posixpath.join(self._root, *parts)
