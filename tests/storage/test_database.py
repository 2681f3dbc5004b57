"""A database and its log: what is in a commit, what an epoch is, and what a damaged file does."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import apsw
import pytest

from penstock.base.errors import Corrupt, Fenced, StorageFull, Unavailable
from penstock.base.rng import seeded_rng
from penstock.storage.database import Database
from penstock.storage.disk import OsDisk
from penstock.storage.relay import Commit
from penstock.testing.sim.disk import SimDisk
from penstock.testing.sim.mount import Mount

WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "objects" / "a.db")


def opened(path: str) -> Database:
    database = Database.open(OsDisk(), path)
    database.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, note)")
    return database


def write(database: Database, *notes: object) -> Commit:
    database.begin()
    for note in notes:
        database.execute("INSERT INTO notes (note) VALUES (?1)", (note,))  # type: ignore[arg-type]
    commit = database.commit()
    assert commit is not None
    return commit


def notes(database: Database) -> list[object]:
    return [note for (note,) in database.execute("SELECT note FROM notes ORDER BY id")]


def test_a_commit_is_the_bytes_that_were_added_to_the_log(path: str) -> None:
    database = opened(path)
    commits = [write(database, n, "x" * 100 * n) for n in range(20)]
    log = Path(path + "-wal").read_bytes()
    assert commits[-1].offset_bytes + commits[-1].size_bytes == len(log) == database.wal_bytes
    for before, after in pairwise(commits):
        assert after.offset_bytes == before.offset_bytes + before.size_bytes
        assert after.position == before.position + 1
    assert b"".join(commit.read() for commit in commits) == log[commits[0].offset_bytes :]
    database.close()


def test_a_base_copy_and_any_prefix_of_the_log_open_as_the_last_complete_commit(path: str, tmp_path: Path) -> None:
    database = opened(path)
    base, commits = Path(path).read_bytes(), [write(database, n) for n in range(12)]
    log = Path(path + "-wal").read_bytes()
    rng = seeded_rng(5)
    cuts = [rng.randrange(commits[0].offset_bytes, len(log)) for _ in range(25)]
    cuts += [commit.offset_bytes + commit.size_bytes + near for commit in commits for near in (-1, 0)]
    for n, cut in enumerate(cuts):
        copy = tmp_path / f"copy-{n}.db"
        copy.write_bytes(base)
        Path(f"{copy}-wal").write_bytes(log[:cut])
        whole = [commit for commit in commits if commit.offset_bytes + commit.size_bytes <= cut]
        restored = opened(str(copy))
        assert notes(restored) == list(range(len(whole)))
        assert restored.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        restored.close()
    database.close()


def test_a_transaction_that_wrote_nothing_is_no_commit(path: str) -> None:
    database = opened(path)
    for statement in ("SELECT * FROM notes", "UPDATE notes SET note = 1 WHERE 0", "SELECT 1"):
        database.begin()
        database.execute(statement)
        assert database.commit() is None
    assert database.position == 0
    database.close()


def test_epochs_grow_from_opening_to_opening_and_from_checkpoint_to_checkpoint(path: str) -> None:
    epochs = []
    for _ in range(3):
        database = opened(path)
        for _ in range(3):
            commit = write(database, 1)
            epochs.append(commit.epoch)
            assert write(database, 2).epoch == commit.epoch
            database.checkpoint()
        database.close()
    assert epochs == sorted(set(epochs))


def test_an_opening_that_puts_off_its_epoch_writes_nothing_until_it_commits(path: str) -> None:
    opened(path).close()
    epochs = []
    for _ in range(2):
        for _ in range(2):
            before = Path(path).read_bytes()
            database = Database.open(OsDisk(), path, defer_epoch=True)
            notes(database)
            assert Path(path + "-wal").read_bytes() == b""
            database.close()
            assert Path(path).read_bytes() == before
        database = Database.open(OsDisk(), path, defer_epoch=True)
        first, second = write(database, 1), write(database, 2)
        assert first.read() + second.read() == Path(path + "-wal").read_bytes()
        assert database.execute("PRAGMA synchronous").get == 1, "SQLite syncs checkpoints only from NORMAL on"
        database.checkpoint()
        third = write(database, 3)
        assert third.offset_bytes == 0
        epochs += [first.epoch, third.epoch]
        assert second.epoch == first.epoch
        database.close()
    assert epochs == sorted(set(epochs))
    assert notes(opened(path)) == [1, 2, 3] * 2


def test_epochs_grow_although_the_process_was_killed(path: str, tmp_path: Path) -> None:
    database = opened(path)
    before = write(database, 1).epoch
    for name in (Path(path).name, Path(path).name + "-wal"):  # what a killed process leaves
        shutil.copy(Path(path).parent / name, tmp_path / name)
    database.close()
    database = opened(str(tmp_path / Path(path).name))
    assert notes(database) == [1]
    assert write(database, 2).epoch > before
    database.close()


@pytest.mark.parametrize("pages", [1, 50], ids=["small", "larger than the whole log before"])
def test_after_a_checkpoint_the_log_starts_again_from_its_first_byte(path: str, pages: int) -> None:
    database = opened(path)
    before = [write(database, n) for n in range(3)][-1]
    database.checkpoint()
    commit = write(database, "x" * 4096 * pages)
    assert (commit.offset_bytes, commit.epoch) == (0, before.epoch + 1)
    assert commit.read()[:4] in WAL_MAGIC
    assert commit.read() == Path(path + "-wal").read_bytes()[: commit.size_bytes]
    following = write(database, "y")
    assert (following.offset_bytes, following.epoch) == (commit.size_bytes, commit.epoch)
    database.close()


def test_a_checkpoint_leaves_an_open_transaction_alone(path: str) -> None:
    database = opened(path)
    write(database, 1)
    database.begin()
    database.execute("INSERT INTO notes (note) VALUES (2)")
    database.checkpoint()
    database.execute("INSERT INTO notes (note) VALUES (3)")
    assert database.commit() is not None
    assert notes(database) == [1, 2, 3]
    database.close()
    database = opened(path)
    assert notes(database) == [1, 2, 3]
    database.close()


def test_a_checkpoint_while_a_reader_reads_disturbs_neither(path: str) -> None:
    database = opened(path)
    before = [write(database, n) for n in range(10)][-1]
    with database.reader() as reader:
        rows = reader.rows("SELECT note FROM notes ORDER BY id", ())
        assert next(rows) == (0,)
        database.checkpoint()
        after = write(database, 10)
        assert after.epoch == before.epoch  # the reader still needs the log
        assert [note for (note,) in rows] == list(range(1, 10))
    database.checkpoint()
    assert write(database, 11).epoch > before.epoch
    assert notes(database) == list(range(12))
    database.close()


def test_a_checkpoint_beside_a_writer_loses_nothing_and_every_commit_is_where_it_says(path: str) -> None:
    database = opened(path)
    stop, done = threading.Event(), threading.Event()

    def checkpoints() -> None:
        while not stop.is_set():
            database.checkpoint()
            done.set()

    thread = threading.Thread(target=checkpoints)
    thread.start()
    try:
        epochs = []
        for n in range(300):
            commit = write(database, n, "x" * (n % 7) * 4096)
            epochs.append(commit.epoch)
            assert Path(path + "-wal").stat().st_size >= commit.offset_bytes + commit.size_bytes
            assert (commit.offset_bytes == 0) == (len(epochs) > 1 and commit.epoch > epochs[-2])
            if commit.offset_bytes == 0:
                assert commit.read()[:4] in WAL_MAGIC
            if n % 30 == 29:  # a pause: the next checkpoint but one copies everything
                for _ in range(2):
                    done.clear()
                    assert done.wait(10)
    finally:
        stop.set()
        thread.join()
    assert epochs == sorted(epochs)
    assert len(set(epochs)) >= 10
    assert [note for note in notes(database) if isinstance(note, int)] == list(range(300))
    database.close()


def test_a_reader_sees_what_is_committed_and_cannot_write(path: str) -> None:
    database = opened(path)
    write(database, 1)
    database.begin()
    database.execute("INSERT INTO notes (note) VALUES (2)")
    with database.reader() as reader:
        assert list(reader.rows("SELECT note FROM notes", ())) == [(1,)]
        database.commit()
        assert list(reader.rows("SELECT note FROM notes WHERE note > ?1", (1,))) == [(2,)]
    with pytest.raises(apsw.ReadOnlyError), database.reader() as reader:
        list(reader.rows("DELETE FROM notes", ()))
    database.close()


_HOLDER = """
import sys
from penstock.storage.database import Database
from penstock.storage.disk import OsDisk
database = Database.open(OsDisk(), sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_cannot_open_it_and_is_told_why(path: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(Unavailable, match="open in another process"):
            Database.open(OsDisk(), path)
    finally:
        holder.stdin.close()
        holder.wait(10)
        holder.stdout.close()
    opened(path).close()  # the lock ends with the process


@pytest.mark.parametrize("damage", ["not a database", "garbled page"])
def test_a_damaged_file_is_corrupt_and_never_served(path: str, damage: str) -> None:
    database = opened(path)
    write(database, *("x" * 500 for _ in range(200)))
    database.close()
    content = bytearray(Path(path).read_bytes())
    if damage == "not a database":
        content[:16] = b"GET / HTTP/1.1\r\n"
    else:
        content[4096:] = b"\xa5" * (len(content) - 4096)
    Path(path).write_bytes(content)
    with pytest.raises(Corrupt, match="damaged"):
        notes(opened(path))


def test_a_full_disk_is_said_so_and_it_works_again_when_there_is_room() -> None:
    disk = SimDisk(seeded_rng(1))
    mount = Mount(disk, "database-full", {})
    database = Database.open(mount, "/data/a.db")
    database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, note)")
    write(database, 1)
    capacity, disk.capacity_bytes = disk.capacity_bytes, 0
    database.begin()
    database.execute("INSERT INTO notes (note) VALUES (2)")
    with pytest.raises(StorageFull):
        database.commit()
    database.rollback()
    assert notes(database) == [1]
    disk.capacity_bytes = capacity
    write(database, 3)
    assert notes(database) == [1, 3]
    database.close()
    mount.bury()


class UnsyncableDisk(OsDisk):
    """Its folders cannot be synced."""

    def sync_dir(self, path: str) -> None:
        raise OSError(errno.EIO, "refused")


def test_b3_a_database_that_cannot_be_made_durable_does_not_open(path: str) -> None:
    Path(path).parent.mkdir()
    with pytest.raises(Fenced, match="refused"):
        Database.open(UnsyncableDisk(), path)
    opened(path).close()
