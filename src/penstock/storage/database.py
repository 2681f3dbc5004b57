"""One SQLite database with its write-ahead log in our hands.

The log is the commit: a transaction that is in the log, and whose log bytes are durable, has happened. So
automatic checkpoints are off, commits do not sync (`synchronous=NORMAL` leaves that to the relay), and after
each commit the range of new log bytes is known (`commit()` gives it back).

**Epochs.** The log is a sequence of frames that starts again from its first byte after a checkpoint has copied
it back. Each such restart is a new epoch, and so is each opening of the database that writes, because what an
earlier process left behind is copied back first. Epochs of one database only grow: the number of openings is stored
in the database, restarts are counted above it. An opening that only reads writes nothing, so that an object can be
read while the disk is full; see `_take_epoch`. (SQLite decides by itself at which write the log restarts. It
can do so after a checkpoint only, and shows it by another header at the head of the log.)

**Opening makes durable.** Data found in the log was read from the page cache and may not be on the disk, for
instance after a kill -9. The checkpoint at opening syncs the log and the database before anything is served. After
a failed fsync that is not enough: the kernel calls the log's lost pages clean, so that syncing them does nothing,
and a power cut in the middle of the checkpoint would leave half of a transaction (Rebello et al., "Can
Applications Recover from fsync Failures?", ATC 2020). So a log that is found is first written over itself.

**An opening that finds no log**, as after a close, syncs twice, and each is needed: the log, so that it holds what
this opening has put there and nothing else; and the folder, since bytes under a name that a power cut takes away
are lost. SQLite would sync two more times when the first frame is written, see `_write_unsynced`.
"""

from __future__ import annotations

import contextlib
import errno
import posixpath
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import apsw

from penstock.base.errors import Corrupt, Fenced, PenstockError, StorageFull, Unavailable
from penstock.base.limits import DISK_FULL_RETRY_S
from penstock.storage.disk import Disk, WalFile
from penstock.storage.relay import Commit
from penstock.storage.sqlite_memory import spare_pages

#: A value that SQLite stores: what a statement's parameters and rows are made of.
SqlValue = None | int | float | str | bytes

#: SQLite's authorizer (sqlite.org/c3ref/set_authorizer.html): gives SQLITE_OK or SQLITE_DENY for an action, its two
#: arguments, the database and the trigger or view that it is done for. Asked while a statement is compiled, not
#: while it runs.
Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]
#: Called with a cursor, the text of its statement and the parameters, before the statement runs.
ExecTrace = Callable[[apsw.Cursor, str, Any], bool]

_WAL_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
#: Restarts of the log within one opening before the epochs of two openings could meet: a million restarts are
#: 32 TiB of log at the usual checkpoint size.
_RESTARTS_MAX = 1 << 20

#: How long a connection of ours waits for another of ours. A second process fails at once: its lock is for life.
_BUSY_MS_MAX = 5_000

_META = "CREATE TABLE IF NOT EXISTS _penstock_meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID"
_NEXT_OPENING = (
    "INSERT INTO _penstock_meta VALUES ('openings', 1) ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value"
)
_PAGES_USED = "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count"

_DISK_ERRORS = (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.BusyError)


class Database:
    """An open database. `open`, `checkpoint`, `close` and `reader` block and are called beside the loop; the rest
    is called on it. Never both at once: the owner sees to that, except that `checkpoint` and
    readers may run while the owner writes (where `Disk.shares_wal_index`)."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._connection: apsw.Connection
        self._checkpointer: apsw.Connection | None = None
        self._wal: WalFile
        self._page_size = 0
        self._opening = 0
        #: Whether the number of this opening is in the log.
        self._has_epoch = False
        self._restarts = 0
        self._hook_frames = 0
        self._wal_end = 0
        #: The log's header, as far as it is known; and whether there was a checkpoint that may have changed it.
        self._wal_header = b""
        self._wal_may_restart = False
        self._position = 0
        self._authorizer: Authorizer | None = None
        #: A statement of ours is being compiled.
        self._is_ours = False

    @classmethod
    def open(cls, disk: Disk, path: str, *, defer_epoch: bool = False) -> Database:
        """Open or create; everything found in it is durable on return. Raises `Unavailable` while another
        process has it open, `StorageFull`, `Corrupt`, `Fenced`.

        `defer_epoch`: write to a database that is there already with the first commit only, so that it can be
        opened and read while the disk is full. All writes must go through `begin` and `commit` then."""
        database = cls(disk, path)
        folder = posixpath.dirname(path)
        with translated_errors(path), _io_errors_fence(path):
            disk.make_dirs(folder)
            # Before SQLite makes one. It was not there: then nobody has written to it before us, since its owner is
            # dead or, if it lives, has the lock, on which this opening fails.
            log_was_left = disk.exists(path + "-wal")
            connection = database._connect()
            database._connection = connection
            try:
                database._recover(connection, log_was_left, defer_epoch)
                database._wal = disk.open_wal(path + "-wal")
                database._wal_header = database._wal.read(0, _WAL_HEADER_BYTES)
                database._wal.sync()
                # SQLite's own sync of the folder, where there was one, does not tell whether it failed.
                disk.sync_dir(folder)
            except BaseException:
                connection.close()
                raise
        return database

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(
            self._path, vfs=self._disk.vfs, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        )
        try:
            if not self._disk.shares_wal_index:
                connection.pragma("locking_mode", "exclusive")
            if not connection.pragma("page_count"):
                # Can be said of a new database only: lets free pages be given back in slices.
                connection.pragma("auto_vacuum", "incremental")
            connection.pragma("journal_mode", "wal")
            connection.set_busy_timeout(_BUSY_MS_MAX)
            connection.pragma("synchronous", "normal")
            connection.pragma("temp_store", "memory")
            connection.pragma("trusted_schema", False)
        except BaseException:
            # Now: the error may be kept for long, and the connection with it, and what it holds.
            connection.close()
            raise
        return connection

    def _recover(self, connection: apsw.Connection, log_was_left: bool, defer_epoch: bool) -> None:
        connection.set_wal_hook(self._on_wal_commit)  # also turns automatic checkpoints off
        if log_was_left:
            # Not before now: the connection has taken the lock, so the log is ours. An empty one too: that it was
            # cut off may not be on the disk yet.
            self._disk.harden(self._path + "-wal")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._page_size = connection.pragma("page_size")
        openings = _openings(connection) if defer_epoch else None
        if openings is None:
            self._first_transaction(connection, log_is_new=not log_was_left)
        else:
            self._opening = openings + 1
            self._write_unsynced(connection)
        spare_pages(connection)

    def _first_transaction(self, connection: apsw.Connection, *, log_is_new: bool) -> None:
        """Of this opening: it takes the next epoch and makes the log file exist."""
        if log_is_new:
            self._write_unsynced(connection)
        with connection:
            connection.execute(_META)
            self._opening = connection.execute(_NEXT_OPENING).get
        connection.pragma("synchronous", "normal")
        self._has_epoch = True
        self._wal_end = self._wal_bytes_of(self._hook_frames)

    def _write_unsynced(self, connection: apsw.Connection) -> None:
        """Let the first transaction of a new log be written without the syncs of SQLite.

        SQLite syncs the log's first header, and the folder, before it writes the first frame. It does so for a log
        that is written over from its start: otherwise a power cut could leave the old header with a part of the old
        frames, and so put back what has been copied into the database since. A new log has no old frames. If the
        power goes now, there is the new log or a part of it, of which SQLite takes what is whole; or the name leads
        to the log that the last close has removed, all of which was copied back and synced before. Nothing else is
        copied back before `open` has synced the log and the folder.

        Where the epoch is put off, that is so for a log that was left, too: it has been cut off, and by the time of
        the first transaction `open` has synced that.
        """
        connection.pragma("synchronous", "off")

    def _take_epoch(self) -> None:
        """Write down, in the transaction that is about to commit and is the first of this opening, which opening it
        is.

        An epoch must never be used by two openings that both wrote. Whoever finds anything of this opening finds
        its number, since both are one transaction. An opening that commits nothing has used no epoch; that the
        next one gets the same does not matter. What is left is a power cut that takes this transaction from the
        log: it has not been synced then, so nothing of this epoch was ever called durable, and nothing is left of
        it. (A relay that sends commits to another place must have the first one of an opening synced here before
        it does: `Commit`.)
        """
        self._opening = self.execute(_NEXT_OPENING).get

    def _on_first_commit(self) -> None:
        self._has_epoch = True
        # Not `Connection.pragma`: whoever restricts statements is not asked about this one.
        self.execute("PRAGMA synchronous = normal")
        self._wal_header = self._wal.read(0, _WAL_HEADER_BYTES)

    def _on_wal_commit(self, _connection: apsw.Connection, _schema: str, frames: int) -> int:
        self._hook_frames = frames
        return apsw.SQLITE_OK

    def _wal_bytes_of(self, frames: int) -> int:
        return _WAL_HEADER_BYTES + frames * (self._page_size + _FRAME_HEADER_BYTES)

    # -- on the loop ----------------------------------------------------------------------------------

    def execute(self, sql: str, parameters: tuple[SqlValue, ...] = ()) -> apsw.Cursor:
        """Run statements of ours; raises what SQLite raises, disk errors translated."""
        self._is_ours = True
        try:
            return self._connection.execute(sql, parameters)
        except _DISK_ERRORS as error:
            raise translate(error, self._path) from error
        finally:
            self._is_ours = False

    def execute_many(self, sql: str, rows: Sequence[tuple[SqlValue, ...]]) -> None:
        """As `execute`, once for each of `rows`; what they give is dropped."""
        self._is_ours = True
        try:
            self._connection.executemany(sql, rows)
        except _DISK_ERRORS as error:
            raise translate(error, self._path) from error
        finally:
            self._is_ours = False

    def execute_restricted(self, sql: str, parameters: tuple[SqlValue, ...] = ()) -> apsw.Cursor:
        """As `execute`, for a statement that is not ours: what `restrict` has set up decides whether it may."""
        # The flag is but a hint to SQLite. It is here because it is part of the key under which apsw keeps compiled
        # statements: one of ours, compiled without asking, is never found by the same text of somebody else.
        try:
            return self._connection.execute(sql, parameters, prepare_flags=apsw.SQLITE_PREPARE_PERSISTENT)
        except _DISK_ERRORS as error:
            raise translate(error, self._path) from error

    def before_run(self, sql: str, parameters: tuple[SqlValue, ...], look: ExecTrace) -> None:
        """Compile a statement that is not ours and call `look` with its cursor, its text and its parameters. `look`
        gives False, so that the statement does not run."""
        cursor = self._connection.cursor()
        cursor.exec_trace = look
        with contextlib.suppress(apsw.ExecTraceAbort):
            cursor.execute(sql, parameters, prepare_flags=apsw.SQLITE_PREPARE_PERSISTENT)

    def restrict(
        self, authorizer: Authorizer, limits: Mapping[int, int], is_too_long: Callable[[], bool], steps: int
    ) -> None:
        """From now on `authorizer` is asked about every statement but those of `execute`, and `limits` (values by
        SQLITE_LIMIT code) hold for all. Every so many `steps` of SQLite `is_too_long` is asked whether to stop.
        Turns on foreign keys, and what protects SQLite's own tables."""
        self._authorizer = authorizer
        connection = self._connection
        # Not as pragmas, which do nothing in a transaction.
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
        for limit, value in limits.items():
            connection.limit(limit, value)
        connection.authorizer = self._authorize
        connection.set_progress_handler(lambda: not self._is_ours and is_too_long(), steps)

    def _authorize(self, action: int, *about: str | None) -> int:
        if self._is_ours:
            return apsw.SQLITE_OK
        assert self._authorizer is not None
        return self._authorizer(action, *about)

    @contextlib.contextmanager
    def foreign_keys_off(self) -> Iterator[None]:
        """Within, statements do not look at foreign keys."""
        enabled = self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, -1)
        self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 0)
        try:
            yield
        finally:
            self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, enabled)

    @property
    def total_changes(self) -> Callable[[], int]:
        """A function that gives the number of rows inserted, changed and deleted since this opening, also by
        triggers and foreign keys."""
        count: Callable[[], int] = self._connection.total_changes
        return count

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    @property
    def has_uncommitted_writes(self) -> bool:
        return self._connection.txn_state("main") == apsw.SQLITE_TXN_WRITE

    @property
    def opening(self) -> int:
        """Which opening of the database this is, counted from 1. Those are not counted that wrote nothing."""
        return self._opening

    @property
    def epoch(self) -> int:
        return self._opening * _RESTARTS_MAX + self._restarts

    @property
    def wal_bytes(self) -> int:
        """Size of the current epoch's log: where the next commit starts."""
        return self._wal_end

    @property
    def position(self) -> int:
        """Commits since this opening."""
        return self._position

    @property
    def size_bytes(self) -> int:
        """Size of what is in use of the database: pages that became free are used again before it grows."""
        pages: int = self.execute(_PAGES_USED).get
        return pages * self._page_size

    def translate(self, error: apsw.Error) -> PenstockError | Exception:
        """Our error for one that SQLite raised while rows were read."""
        return translate(error, self._path)

    def begin(self) -> None:
        self.execute("BEGIN")

    def commit(self) -> Commit | None:
        """End the transaction. Gives the log bytes it became, None if it wrote nothing."""
        wrote = self.has_uncommitted_writes
        if wrote and not self._has_epoch:
            self._take_epoch()
        self._hook_frames = 0
        self.execute("COMMIT")
        if wrote and not self._has_epoch:
            self._on_first_commit()
        # A transaction may take the write lock and change nothing (an UPDATE of no rows): no frames then.
        if not wrote or not self._hook_frames:
            return None
        start, end = self._wal_end, self._wal_bytes_of(self._hook_frames)
        if self._wal_may_restart and self._has_wal_restarted():
            self._restarts += 1
            assert self._restarts < _RESTARTS_MAX
            start = 0
        assert end > start, (start, end)
        self._wal_end = end
        self._position += 1
        return Commit(self._position, self.epoch, start, end - start, self._wal)

    def _has_wal_restarted(self) -> bool:
        header = self._wal.read(0, _WAL_HEADER_BYTES)
        if header == self._wal_header:
            return False
        self._wal_header = header
        self._wal_may_restart = False
        return True

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self.execute("ROLLBACK")

    # -- beside the loop --------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Copy the log back into the database, as far as it was written when this began, syncing both.

        If nothing was added meanwhile and nobody reads from the log, the next write starts a new epoch. Passive
        on purpose: the other modes take the writer's lock, and the owner, with a read transaction open, would
        fail on it at once.
        """
        self._wal_may_restart = True  # before: the owner may commit, and so restart it, before this returns
        # Locked: where there is one connection only, it may be in a transaction. Busy: the owner was just writing
        # the head of the WAL index. Next time, then.
        with translated_errors(self._path), contextlib.suppress(apsw.LockedError, apsw.BusyError):
            self._checkpoint_connection().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _checkpoint_connection(self) -> apsw.Connection:
        if not self._disk.shares_wal_index:
            return self._connection
        if self._checkpointer is None:
            self._checkpointer = self._connect()
        return self._checkpointer

    @contextlib.contextmanager
    def reader(self, authorizer: Authorizer | None = None) -> Iterator[Reader]:
        """A reader of committed rows, for one thread beside the loop. `authorizer` is asked about its queries."""
        with translated_errors(self._path):
            if not self._disk.shares_wal_index:
                yield Reader(self._connection)
                return
            connection = self._connect()
            try:
                connection.pragma("query_only", True)
                connection.authorizer = authorizer
                yield Reader(connection)
            finally:
                connection.close()

    def close(self) -> None:
        """Copy the log back and close. Open transactions are rolled back."""
        with translated_errors(self._path):
            if self._checkpointer is not None:
                self._checkpointer.close()
            self._connection.close()
            self._wal.close()


def _openings(connection: apsw.Connection) -> int | None:
    """How many openings have written to a database; None if it is new, or its first opening did not get so far."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = '_penstock_meta'").fetchone() is None:
        return None
    row = connection.execute("SELECT value FROM _penstock_meta WHERE key = 'openings'").fetchone()
    return row[0] if row is not None else None


class Reader:
    """Reads rows in short read transactions: a long one would keep the log from starting again."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, parameters: tuple[SqlValue, ...]) -> Generator[tuple[Any, ...]]:
        """The rows of a query. The read transaction ends with the last row or when the iterator is closed."""
        cursor = self._connection.cursor()
        try:
            yield from cursor.execute(sql, parameters)
        finally:
            cursor.close()


@contextlib.contextmanager
def translated_errors(path: str) -> Iterator[None]:
    """Turn SQLite's and the operating system's disk errors into ours."""
    try:
        yield
    except (apsw.Error, OSError) as error:
        raise translate(error, path) from error


@contextlib.contextmanager
def _io_errors_fence(path: str) -> Iterator[None]:
    """While a database is opened its log and names are synced by us, and a sync that failed cannot be made good."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Fenced(f"The disk refused to make {path} durable ({error}).") from error


_FSYNC_CODES = (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC)


def _disk_failed(path: str, error: apsw.Error | OSError) -> Unavailable:
    # Clients may read this: the file's own name helps whoever looks into the data directory, its place nobody else.
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return Unavailable(f"The disk failed on {posixpath.basename(path)} ({reason}).", retry_after_s=1)


def _disk_full() -> StorageFull:
    return StorageFull(
        "The disk is full; nothing was stored. It works again when there is room.", retry_after_s=DISK_FULL_RETRY_S
    )


def translate(error: apsw.Error | OSError, path: str) -> PenstockError | Exception:
    """Our error for SQLite's, or the error itself where it is not about the disk."""
    match error:
        case apsw.FullError():
            return _disk_full()
        case apsw.CorruptError() | apsw.NotADBError():
            return Corrupt(f"The database {path} is damaged ({error}). Restore it from a backup.")
        case apsw.IOError() if getattr(error, "extendedresult", 0) in _FSYNC_CODES:
            return Fenced(f"The disk refused to make {path} durable ({error}).")
        case apsw.BusyError():
            return Unavailable(f"{path} is open in another process.", retry_after_s=1)
        case apsw.IOError() | apsw.CantOpenError():
            return _disk_failed(path, error)
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _disk_full()
        case OSError():
            return _disk_failed(path, error)
    return error
