"""A simulated file system: what was synced survives, what was not may be lost, torn or reordered.

A file has the content that the kernel shows and, apart from it, the content that is on the platter with the
list of operations that are not there yet. Names have the same two states. `sync` moves a file's operations to
the platter, `sync_dir` a folder's names. A **kill** of a process changes nothing: the kernel has it all, but
unsynced it stays. A **power cut** decides for each unsynced operation whether it reached the platter, and for
a write which of its sectors did; what the kernel showed is gone.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.base.rng import Rng

SECTOR = 512


@dataclass(frozen=True, slots=True)
class _Write:
    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        end = self.offset + len(self.data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        content[self.offset : end] = self.data


@dataclass(frozen=True, slots=True)
class _Truncate:
    size: int

    def apply(self, content: bytearray) -> None:
        del content[self.size :]
        content.extend(bytes(self.size - len(content)))


@dataclass(eq=False, slots=True)
class Inode:
    #: The latest name, for messages.
    path: str
    content: bytearray = field(default_factory=bytearray)
    platter: bytearray = field(default_factory=bytearray)
    unsynced: list[_Write | _Truncate] = field(default_factory=list)
    #: Whether a name leads here. A file without one takes no room.
    linked: bool = True


@dataclass(frozen=True, slots=True)
class _Link:
    """A name that appears (`inode`), or disappears (None); `moved_from` is the other name of a rename."""

    path: str
    inode: Inode | None
    moved_from: str | None = None


class SimDisk:
    """The file system of one machine. All changes come through here, and are counted: `operations`."""

    def __init__(self, rng: Rng, capacity_bytes: int = 1 << 40) -> None:
        self.operations = 0
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        #: Called before each operation with its number, name and path; may raise.
        self.before_operation: Callable[[int, str, str], None] = lambda _number, _name, _path: None
        #: Called with "read" or "close" and the path before what is no operation, as it changes nothing; may raise.
        self.before_access: Callable[[str, str], None] = lambda _name, _path: None
        #: The mount through which the latest operation came.
        self.user: object = None
        #: Syncs fail with EIO while this is set.
        self.sync_fails = False
        self._rng = rng
        self._names: dict[str, Inode] = {}
        self._names_on_platter: dict[str, Inode] = {}
        self._links: list[_Link] = []
        self._folders: set[str] = {"/"}

    # -- files --------------------------------------------------------------------------------------------

    def find(self, path: str) -> Inode | None:
        return self._names.get(path)

    def create(self, path: str) -> Inode:
        """A file that is there, or a new empty one."""
        inode = self._names.get(path)
        if inode is None:
            self._operation("create", path)
            inode = self._names[path] = Inode(path)
            self._links.append(_Link(path, inode))
        return inode

    def write(self, inode: Inode, offset: int, data: bytes) -> None:
        self._operation("write", inode.path)
        grows = max(0, offset + len(data) - len(inode.content))
        if grows > self.free_bytes:
            raise OSError(errno.ENOSPC, "No space left on the simulated disk")
        self._change(inode, _Write(offset, data))

    def truncate(self, inode: Inode, size: int) -> None:
        self._operation("truncate", inode.path)
        self._change(inode, _Truncate(size))

    def _change(self, inode: Inode, change: _Write | _Truncate) -> None:
        before = len(inode.content)
        change.apply(inode.content)
        if inode.linked:
            self.used_bytes += len(inode.content) - before
        inode.unsynced.append(change)

    def sync(self, inode: Inode) -> None:
        self._operation("sync", inode.path)
        changes, inode.unsynced = inode.unsynced, []
        if self.sync_fails:
            # As Linux does it: the error is reported once, the pages are clean from then on, and which of them
            # reached the disk nobody knows.
            self._survivors(inode.platter, changes)
            raise OSError(errno.EIO, "The simulated disk refused")
        for change in changes:
            change.apply(inode.platter)

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.used_bytes

    # -- names --------------------------------------------------------------------------------------------

    def rename(self, source: str, target: str) -> None:
        self._operation("rename", target)
        inode = self._names.pop(source)
        self._unlink(target)
        self._names[target] = inode
        inode.path = target
        self._links.append(_Link(target, inode, moved_from=source))

    def remove(self, path: str) -> None:
        if path in self._names:
            self._operation("remove", path)
            self._unlink(path)
            self._links.append(_Link(path, None))

    def _unlink(self, path: str) -> None:
        inode = self._names.pop(path, None)
        if inode is not None:
            inode.linked = False
            self.used_bytes -= len(inode.content)

    def sync_dir(self, folder: str) -> None:
        self._operation("sync_dir", folder)
        if self.sync_fails:
            raise OSError(errno.EIO, "The simulated disk refused")
        later = []
        for link in self._links:
            if posixpath.dirname(link.path) == folder:
                self._link_on_platter(link)
            else:
                later.append(link)
        self._links = later

    def make_dirs(self, path: str) -> None:
        # Folders themselves are taken for durable: each is created once, before anything is acknowledged in it.
        while path not in self._folders:
            self._folders.add(path)
            path = posixpath.dirname(path)

    def remove_dir(self, path: str) -> None:
        assert not self.list_dir(path), f"{path} is not empty"
        self._folders.discard(path)

    def files(self, folder: str) -> dict[str, bytes]:
        """The content of every file below a folder, by path, sorted. For who looks at the disk from outside."""
        below = folder.rstrip("/") + "/"
        return {path: bytes(self._names[path].content) for path in sorted(self._names) if path.startswith(below)}

    def is_dir(self, path: str) -> bool:
        return path in self._folders

    def list_dir(self, folder: str) -> list[str]:
        folder = folder.rstrip("/") or "/"
        inside = [path for path in [*self._names, *self._folders] if posixpath.dirname(path) == folder]
        return sorted(posixpath.basename(path) for path in inside if path != "/")

    def _link_on_platter(self, link: _Link) -> None:
        if link.moved_from is not None:
            self._names_on_platter.pop(link.moved_from, None)
        if link.inode is None:
            self._names_on_platter.pop(link.path, None)
        else:
            self._names_on_platter[link.path] = link.inode

    # -- crashes ------------------------------------------------------------------------------------------

    def power_cut(self) -> None:
        """Everything that was not synced meets its fate."""
        links, self._links = self._links, []
        for link in links:
            if self._rng.random() < 0.5:
                self._link_on_platter(link)
        self._names = dict(self._names_on_platter)
        for path in sorted(self._names):
            inode = self._names[path]
            changes, inode.unsynced = inode.unsynced, []
            self._survivors(inode.platter, changes)
            inode.content = bytearray(inode.platter)
            inode.linked = True
        self.used_bytes = sum(len(inode.content) for inode in self._names.values())

    def _survivors(self, platter: bytearray, changes: list[_Write | _Truncate]) -> None:
        """Apply what reached the platter of `changes`: nothing, all, the first few, or any subset with torn
        writes."""
        fate = self._rng.random()
        if fate < 0.2:
            return
        if fate < 0.4:
            changes = changes[: self._rng.randint(0, len(changes))]
        subset = fate > 0.7
        for change in changes:
            if not subset or self._rng.random() < 0.5:
                change.apply(platter)
            elif isinstance(change, _Write):
                self._torn(change, platter)

    def _torn(self, write: _Write, platter: bytearray) -> None:
        for start in range(0, len(write.data), SECTOR):
            if self._rng.random() < 0.3:
                _Write(write.offset + start, write.data[start : start + SECTOR]).apply(platter)

    def _operation(self, name: str, path: str) -> None:
        self.operations += 1
        self.before_operation(self.operations, name, path)
