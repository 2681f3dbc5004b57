"""The disk, as a port: the few file operations that durability is built from.

What a power cut keeps is decided by three calls: `WalFile.sync` (the bytes of one file), `write` (a whole file,
synced before it returns) and `sync_dir` (the *names* in a folder: a file whose bytes are durable but whose
name is not is lost all the same). Every function here may block and may raise `OSError`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from typing import Protocol


class WalFile(Protocol):
    """An open handle on a database's write-ahead log, apart from SQLite's own."""

    def sync(self) -> None:
        """Return when every byte written to the file so far is durable (fdatasync). After an `OSError` nothing
        about the file can be trusted any more: the kernel may have dropped the dirty pages and will report
        success next time (the "fsyncgate" of 2018), so the caller must stop, not try again."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer only at the end of the file."""
        ...

    def close(self) -> None: ...


class ReadFile(Protocol):
    """An open handle for reading: it shows the file that was opened, even if another took its name."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer only at the end of the file."""
        ...

    def close(self) -> None:
        """Harmless while another thread reads, which then gets nothing."""
        ...


class Disk(Protocol):
    """A file system. Paths are absolute, with `/` between their parts."""

    #: Name of the SQLite VFS through which databases on this disk are opened.
    vfs: str
    #: Whether a second connection of this process may open a database beside the first, as the checkpointer
    #: and the readers do. False where the VFS has no shared WAL index (the simulator's).
    shares_wal_index: bool

    def make_dirs(self, path: str) -> None:
        """Create the folder and its missing parents, and make their names durable."""
        ...

    def list_dir(self, path: str) -> list[str]:
        """Sorted names in a folder; empty when there is no such folder."""
        ...

    def exists(self, path: str) -> bool: ...

    def is_dir(self, path: str) -> bool: ...

    def size(self, path: str) -> int:
        """Bytes in a file. Raises `FileNotFoundError`, as `read` does."""
        ...

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        """Create or replace a file with `chunks`; its bytes (not its name) are durable on return. Returns its
        size. A crash half-way leaves a partial file: write to a temporary name, then `rename`."""
        ...

    def append(self, path: str, data: bytes) -> None:
        """Write `data` at the end of a file; durable after `sync`."""
        ...

    def sync(self, path: str) -> None:
        """Return when every byte of the file is durable. After an `OSError` its bytes are not to be trusted."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Replace `target` by `source` in one step. Durable after `sync_dir` of the target's folder."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; no error when there is none."""
        ...

    def remove_dir(self, path: str) -> None:
        """Remove an empty folder; no error when there is none."""
        ...

    def modified_ms(self, path: str) -> int:
        """When a file was last written, milliseconds since the Unix epoch. Raises `FileNotFoundError`."""
        ...

    def sync_dir(self, path: str) -> None:
        """Return when the names in the folder are durable."""
        ...

    def open_wal(self, path: str) -> WalFile: ...

    def open_read(self, path: str) -> ReadFile:
        """Raises `FileNotFoundError`."""
        ...

    def harden(self, path: str) -> None:
        """Make durable what reading the file shows, even if a sync of it failed before: its bytes are written over
        themselves, so that the kernel takes them for new, and synced. No error when there is no such file. Nobody
        may write to the file meanwhile."""
        ...

    def free_bytes(self, path: str) -> int:
        """Bytes an unprivileged writer can still write to the file system of `path`."""
        ...


class _OsWalFile:
    __slots__ = ("_fd",)

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def sync(self) -> None:
        _datasync(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def close(self) -> None:
        os.close(self._fd)


class _OsReadFile:
    __slots__ = ("_fd", "_lock")

    def __init__(self, path: str) -> None:
        self._fd: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        # A closed descriptor's number may be another file's at once.
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:
            return b"" if self._fd is None else os.pread(self._fd, size, offset)

    def close(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None


def _datasync(fd: int) -> None:
    # macOS has no fdatasync.
    getattr(os, "fdatasync", os.fsync)(fd)


#: Folders that a process remembers to have made durable; to do it again costs little.
_DURABLE_DIRS_MAX = 10_000
#: A file is copied over itself in pieces of this size.
_PIECE_BYTES = 1 << 20


class OsDisk:
    """The operating system's file system.

    Folders at `root` and above it are taken for durable. Those below are made so on their first use by each
    process, found or made: one that is found may have been made by a process that died before its name was durable.

    The VFS is `unix-excl`: the process takes an exclusive lock on a database when it opens it, so a second
    process can never write to the same object, and the WAL index lives on the heap, where further connections
    of this process share it (sqlite.org/vfs.html#standard_unix_vfses). Both are what an object's single owner
    needs.
    """

    vfs = "unix-excl"
    shares_wal_index = True

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._durable_dirs: set[str] = set()

    def make_dirs(self, path: str) -> None:
        if path == self._root or (path in self._durable_dirs and os.path.isdir(path)):
            return
        parent = os.path.dirname(path)
        assert parent != path, f"{path} is outside of the disk's root, {self._root}"
        self.make_dirs(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        try:
            self.sync_dir(parent)
        except OSError:
            # The next sync may succeed without having done anything; a folder made anew is news to it.
            with contextlib.suppress(OSError):
                os.rmdir(path)
            raise
        if len(self._durable_dirs) >= _DURABLE_DIRS_MAX:
            self._durable_dirs.clear()
        self._durable_dirs.add(path)

    def list_dir(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            size = 0
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
                size += len(chunk)
            os.fsync(fd)
            return size
        finally:
            os.close(fd)

    def append(self, path: str, data: bytes) -> None:
        with open(path, "ab", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def sync(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _datasync(fd)
        finally:
            os.close(fd)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_dir(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)

    def modified_ms(self, path: str) -> int:
        return os.stat(path).st_mtime_ns // 1_000_000

    def sync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def open_wal(self, path: str) -> WalFile:
        return _OsWalFile(path)

    def open_read(self, path: str) -> ReadFile:
        return _OsReadFile(path)

    def harden(self, path: str) -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            offset = 0
            while piece := os.pread(fd, _PIECE_BYTES, offset):
                offset += os.pwrite(fd, piece, offset)
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: str) -> int:
        stats = os.statvfs(path)
        return stats.f_bavail * stats.f_frsize
