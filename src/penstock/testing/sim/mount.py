"""The simulated disk as one process sees it: the `Disk` port, and a SQLite VFS.

A mount belongs to a process and dies with it. Whatever still runs of a dead process (a cancelled task's
`finally`, a connection that the garbage collector closes) reaches the disk no more. SQLite is told that all went
well: an error would only be news to somebody who is not there.

The VFS has no shared memory, so connections use `locking_mode=EXCLUSIVE`, in which SQLite keeps the WAL index on
the heap. Exceptions in a VFS method become SQLite result codes by way of their `extendedresult`.
"""

from __future__ import annotations

import contextlib
import errno
import posixpath
from collections.abc import Iterable, Iterator
from typing import Any

import apsw

from penstock.storage.disk import ReadFile, WalFile
from penstock.testing.sim.crash import Crashed
from penstock.testing.sim.disk import Inode, SimDisk

_JOURNALS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
_EPOCH_JULIAN_MS = 210_866_760_000_000


class Mount:
    """The `Disk` of one process. `name` must be new for each."""

    shares_wal_index = False

    def __init__(self, disk: SimDisk, name: str, locks: dict[str, Mount]) -> None:
        self.alive = True
        self.name = name
        self.vfs = f"sim-{name}"
        self._disk = disk
        self._locks = locks
        self._vfs = _Vfs(self)

    def die(self) -> None:
        """The process is gone: no operation of it reaches the disk from now on."""
        self.alive = False
        for path in [path for path, owner in self._locks.items() if owner is self]:
            del self._locks[path]

    def bury(self) -> None:
        """Nothing of the process runs any more: let SQLite forget the VFS. (Connections that are still open keep
        it until they are gone.)"""
        self.die()
        self._vfs.unregister()

    @property
    def disk(self) -> SimDisk:
        if not self.alive:
            raise Crashed
        self._disk.user = self
        return self._disk

    def lock(self, path: str) -> bool:
        """Take a database for this process, which keeps it; False if another has it."""
        return self._locks.setdefault(path, self) is self

    # -- the Disk port ------------------------------------------------------------------------------------

    def make_dirs(self, path: str) -> None:
        self.disk.make_dirs(path)

    def list_dir(self, path: str) -> list[str]:
        return self.disk.list_dir(path)

    def exists(self, path: str) -> bool:
        return self.disk.find(path) is not None

    def is_dir(self, path: str) -> bool:
        return self.disk.is_dir(path)

    def size(self, path: str) -> int:
        return len(self._inode(path).content)

    def read(self, path: str) -> bytes:
        return bytes(self._inode(path).content)

    def _inode(self, path: str) -> Inode:
        inode = self.disk.find(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such simulated file", path)
        return inode

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        inode = self.disk.create(path)
        self.disk.truncate(inode, 0)
        size = 0
        for chunk in chunks:
            self.disk.write(inode, size, bytes(chunk))
            size += len(chunk)
        self.disk.sync(inode)
        return size

    def append(self, path: str, data: bytes) -> None:
        inode = self._inode(path)
        self.disk.write(inode, len(inode.content), data)

    def sync(self, path: str) -> None:
        self.disk.sync(self._inode(path))

    def rename(self, source: str, target: str) -> None:
        self.disk.rename(source, target)

    def remove(self, path: str) -> None:
        self.disk.remove(path)

    def remove_dir(self, path: str) -> None:
        self.disk.remove_dir(path)

    def modified_ms(self, path: str) -> int:
        self._inode(path)
        return 0  # the simulated disk has no clock

    def sync_dir(self, path: str) -> None:
        self.disk.sync_dir(path)

    def open_wal(self, path: str) -> WalFile:
        return _SimWalFile(self, self._inode(path))

    def open_read(self, path: str) -> ReadFile:
        return _SimWalFile(self, self._inode(path))

    def harden(self, path: str) -> None:
        inode = self.disk.find(path)
        if inode is not None:
            self.disk.write(inode, 0, bytes(inode.content))
            self.disk.sync(inode)

    def free_bytes(self, path: str) -> int:
        return self.disk.free_bytes


class _SimWalFile:
    def __init__(self, mount: Mount, inode: Inode) -> None:
        self._mount = mount
        self._inode = inode

    def sync(self) -> None:
        self._mount.disk.sync(self._inode)

    def read(self, offset: int, size: int) -> bytes:
        self._mount.disk.before_access("read", self._inode.path)
        return bytes(self._inode.content[offset : offset + size])

    def close(self) -> None:
        if self._mount.alive:
            self._mount.disk.before_access("close", self._inode.path)


def _error(code: int) -> apsw.IOError:
    error = apsw.IOError("simulated")
    error.extendedresult = code  # type: ignore[attr-defined]
    return error


@contextlib.contextmanager
def _errors_as(code: int) -> Iterator[None]:
    """What the disk says, in SQLite's words. A process that dies here hears nothing."""
    try:
        yield
    except Crashed:
        pass
    except OSError as error:
        raise (apsw.FullError("simulated") if error.errno == errno.ENOSPC else _error(code)) from None


class _Vfs(apsw.VFS):
    def __init__(self, mount: Mount) -> None:
        super().__init__(mount.vfs, base="")
        self._mount = mount

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # type: ignore[override]
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        assert path is not None, "temporary files are kept in memory"
        with _errors_as(apsw.SQLITE_IOERR):
            inode = self._mount.disk.find(path)
            created = inode is None
            if inode is None:
                if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                    raise apsw.CantOpenError("no such file")
                inode = self._mount.disk.create(path)
            flags[1] = flags[0]
            return _File(self._mount, path, inode, sync_folder=created and bool(flags[0] & _JOURNALS))
        raise apsw.CantOpenError("the process is dead")

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with _errors_as(apsw.SQLITE_IOERR_DELETE):
            if self._mount.disk.find(filename) is None:
                raise _error(apsw.SQLITE_IOERR_DELETE_NOENT)
            self._mount.disk.remove(filename)
            if syncdir:
                self._mount.disk.sync_dir(posixpath.dirname(filename))

    def xAccess(self, pathname: str, flags: int) -> bool:
        return self._mount.alive and self._mount.disk.find(pathname) is not None

    def xFullPathname(self, name: str) -> str:
        return name

    def xRandomness(self, numbytes: int) -> bytes:
        return bytes(numbytes)

    def xSleep(self, microseconds: int) -> int:
        return microseconds

    def xCurrentTimeInt64(self) -> int:
        return _EPOCH_JULIAN_MS


class _File:
    """One open file. `sync_folder`: the first sync of a new journal also syncs its name, as SQLite's unix VFS
    does."""

    def __init__(self, mount: Mount, path: str, inode: Inode, *, sync_folder: bool) -> None:
        self._mount = mount
        self._path = path
        self._inode = inode
        self._sync_folder = sync_folder

    def xRead(self, amount: int, offset: int) -> bytes:
        if not self._mount.alive:
            return bytes(amount)
        with _errors_as(apsw.SQLITE_IOERR_READ):
            self._mount.disk.before_access("read", self._path)
        return bytes(self._inode.content[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        with _errors_as(apsw.SQLITE_IOERR_WRITE):
            self._mount.disk.write(self._inode, offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        with _errors_as(apsw.SQLITE_IOERR_TRUNCATE):
            self._mount.disk.truncate(self._inode, size)

    def xSync(self, flags: int) -> None:
        with _errors_as(apsw.SQLITE_IOERR_FSYNC):
            self._mount.disk.sync(self._inode)
            if self._sync_folder:
                self._mount.disk.sync_dir(posixpath.dirname(self._path))
                self._sync_folder = False

    def xFileSize(self) -> int:
        return len(self._inode.content)

    def xLock(self, level: int) -> None:
        if self._mount.alive and not self._mount.lock(self._path):
            raise apsw.BusyError("open in another simulated process")

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 512

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xClose(self) -> None:
        pass
