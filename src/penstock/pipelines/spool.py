"""Files on their way to a bucket that cannot be made twice alike: kept on the local disk until they are there."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

from penstock.base.errors import Corrupt
from penstock.base.limits import SPOOL_PIECE_BYTES
from penstock.storage.database import translated_errors
from penstock.storage.disk import Disk


class Spool:
    """A folder of files. Everything here blocks: call it beside the loop."""

    def __init__(self, disk: Disk, folder: str) -> None:
        self._disk = disk
        self._folder = folder

    def path(self, shard: str, ulid: str, number: int) -> str:
        """Where file `number` of a segment goes, below the spool's folder."""
        return f"{_folder(shard)}/{ulid}.{number}"

    def start(self, path: str) -> None:
        """An empty file, in place of what an attempt before this one may have left."""
        with translated_errors(path):
            folder = self._of(path).rpartition("/")[0]
            self._disk.make_dirs(folder)
            self._disk.write(self._of(path), [])

    def append(self, path: str, data: bytes) -> None:
        with translated_errors(path):
            self._disk.append(self._of(path), data)

    def finish(self, paths: list[str]) -> None:
        """Return when the files are durable, names and bytes."""
        for path in paths:
            with translated_errors(path):
                self._disk.sync(self._of(path))
        for folder in {self._of(path).rpartition("/")[0] for path in paths}:
            with translated_errors(folder):
                self._disk.sync_dir(folder)

    def chunks(self, path: str, size_bytes: int) -> Iterator[bytes]:
        """The bytes of a file. Raises `Corrupt` if it is not there any more, or has another size."""
        full = self._of(path)
        with translated_errors(path):
            if not self._disk.exists(full) or self._disk.size(full) != size_bytes:
                raise Corrupt(f"{full} is missing or damaged: the file is not delivered. Restore it from a backup.")
        with translated_errors(path):
            file = self._disk.open_read(full)
        try:
            for offset in range(0, size_bytes, SPOOL_PIECE_BYTES):
                with translated_errors(path):
                    piece = file.read(offset, SPOOL_PIECE_BYTES)
                yield piece
        finally:
            file.close()

    def remove(self, paths: list[str]) -> None:
        for path in paths:
            self._disk.remove(self._of(path))

    def clear(self, shard: str, keep: Collection[str]) -> None:
        """Remove what a crash left of a shard's files, all but those in `keep`; the folder too if none is left."""
        folder = self._of(_folder(shard))
        with translated_errors(folder):
            if not self._disk.is_dir(folder):
                return
            kept = {path.rpartition("/")[2] for path in keep}
            for name in self._disk.list_dir(folder):
                if name not in kept:
                    self._disk.remove(f"{folder}/{name}")
            self._disk.sync_dir(folder)
            if not kept:
                self._disk.remove_dir(folder)

    def _of(self, path: str) -> str:
        return f"{self._folder}/{path}"


def _folder(shard: str) -> str:
    return hashlib.sha256(shard.encode()).hexdigest()[:32]
