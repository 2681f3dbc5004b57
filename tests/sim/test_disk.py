"""Row B1 of the list of faults: torn, reordered and lost writes that were not synced."""

from __future__ import annotations

import contextlib
import random
from itertools import count

import apsw
import pytest

from penstock.base.errors import Fenced, PenstockError, StorageFull, Unavailable
from penstock.storage.database import Database
from penstock.testing.sim.crash import Crashed
from penstock.testing.sim.disk import SimDisk
from penstock.testing.sim.mount import Mount

PATH = "/data/object.db"


class Machine:
    """A disk, and one process after the other on it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = SimDisk(self.rng)
        self._locks: dict[str, Mount] = {}
        self._lives = 0

    def mount(self) -> Mount:
        self._lives += 1
        return Mount(self.disk, f"test-{id(self):x}-{self._lives}", self._locks)


def make_table(database: Database) -> None:
    database.begin()
    database.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
    database.commit()


def write_until_the_power_fails(machine: Machine, defer_epoch: bool) -> tuple[int, int, list[int]]:
    """Number the transactions, two rows each; gives how many were made durable, how many tried, and the epochs of
    those that became durable."""
    mount = machine.mount()
    database = Database.open(mount, PATH, defer_epoch=defer_epoch)
    make_table(database)
    epochs: dict[int, None] = {}
    start = database.execute("SELECT count(*) / 2 FROM t").get
    durable, tried = start, start + machine.rng.randint(0, 60)
    for n in range(start, tried):
        database.begin()
        database.execute("INSERT INTO t VALUES (?)", (n,))
        database.execute("INSERT INTO t VALUES (?)", (n,))
        commit = database.commit()
        assert commit is not None
        if machine.rng.random() < 0.5:
            commit.wal.sync()
            durable = n + 1
            epochs[commit.epoch] = None
        if machine.rng.random() < 0.1:
            database.checkpoint()
    mount.bury()
    machine.disk.power_cut()
    return durable, tried, list(epochs)


@pytest.mark.parametrize("defer_epoch", [False, True])
@pytest.mark.parametrize("seed", range(100))
def test_B1_a_power_cut_takes_at_most_what_was_not_synced(seed: int, defer_epoch: bool) -> None:
    machine = Machine(seed)
    epochs: list[int] = []
    for _ in range(3):
        durable, tried, used = write_until_the_power_fails(machine, defer_epoch)
        epochs += used
        mount = machine.mount()
        database = Database.open(mount, PATH, defer_epoch=defer_epoch)
        assert database.execute("PRAGMA integrity_check").get == "ok"
        make_table(database)
        rows = [n for (n,) in database.execute("SELECT n FROM t ORDER BY rowid")]
        # Whole transactions, in order, none missing between, and at least those that were durable.
        assert rows == [n for n in range(len(rows) // 2) for _ in range(2)]
        assert durable <= len(rows) // 2 <= tried
        if not defer_epoch:
            epochs.append(database.epoch)
        database.close()
        mount.bury()
        machine.disk.power_cut()
    assert epochs == sorted(set(epochs)), "an epoch came again"


@pytest.mark.parametrize("seed", range(20))
def test_B1_a_name_that_was_not_synced_may_be_gone_or_not(seed: int) -> None:
    machine = Machine(seed)
    mount = machine.mount()
    mount.write("/bucket/synced", [b"whole"])
    mount.sync_dir("/bucket")
    mount.write("/bucket/unsynced", [b"whole"])
    machine.disk.power_cut()
    assert mount.read("/bucket/synced") == b"whole"
    assert not mount.exists("/bucket/unsynced") or mount.read("/bucket/unsynced") == b"whole"


def test_B1_unsynced_names_and_bytes_are_really_lost_sometimes() -> None:
    """The simulated disk must be able to do harm, or the tests on it prove nothing."""
    kept = set()
    for seed in range(50):
        machine = Machine(seed)
        mount = machine.mount()
        inode = machine.disk.create("/a")
        mount.sync_dir("/")
        machine.disk.write(inode, 0, b"x" * 2000)
        machine.disk.power_cut()
        kept.add(bytes(mount.read("/a")))
    assert b"" in kept
    assert b"x" * 2000 in kept
    assert any(0 < content.count(b"x") < 2000 for content in kept)


def test_B3_a_sync_that_failed_is_not_made_good_by_the_next() -> None:
    """As after fsync errors on Linux: the pages count as clean, and what of them is on the disk nobody knows."""
    lost = 0
    for seed in range(50):
        machine = Machine(seed)
        mount = machine.mount()
        database = Database.open(mount, PATH)
        database.begin()
        database.execute("CREATE TABLE t (n)")
        commit = database.commit()
        assert commit is not None
        machine.disk.sync_fails = True
        with pytest.raises(OSError, match="refused"):
            commit.wal.sync()
        machine.disk.sync_fails = False
        commit.wal.sync()
        mount.bury()
        machine.disk.power_cut()
        again = Database.open(machine.mount(), PATH)
        lost += not again.execute("SELECT count(*) FROM sqlite_schema WHERE name = 't'").get
    assert 0 < lost < 50


class Recorded:
    """Which operations there were."""

    def __init__(self, disk: SimDisk) -> None:
        self.names: set[str] = set()
        disk.before_operation = lambda _number, name, _path: self.names.add(name)


def test_B2_a_database_opens_and_is_read_on_a_full_disk_and_takes_its_epoch_when_it_writes() -> None:
    machine = Machine(0)
    mount = machine.mount()
    database = Database.open(mount, PATH, defer_epoch=True)
    make_table(database)
    epochs = [database.epoch]
    database.close()
    for _ in range(2):
        machine.disk.capacity_bytes = machine.disk.used_bytes
        operations = Recorded(machine.disk)
        for _ in range(2):
            database = Database.open(mount, PATH, defer_epoch=True)
            assert database.execute("SELECT count(*) FROM t").get == len(epochs) - 1
            database.close()
        assert not {"write", "truncate"} & operations.names
        database = Database.open(mount, PATH, defer_epoch=True)
        database.begin()
        with pytest.raises(StorageFull):
            database.execute("INSERT INTO t VALUES (1)")
            database.commit()
        database.rollback()
        database.close()
        machine.disk.capacity_bytes = 1 << 40
        database = Database.open(mount, PATH, defer_epoch=True)
        database.begin()
        database.execute("INSERT INTO t VALUES (1)")
        commit = database.commit()
        assert commit is not None and commit.offset_bytes == 0
        assert len(commit.read()) == commit.size_bytes == database.wal_bytes
        epochs.append(commit.epoch)
        database.close()
    assert epochs == sorted(set(epochs)), "an epoch came again"


def test_a_full_disk_is_reported_as_such_and_passes() -> None:
    machine = Machine(0)
    database = Database.open(machine.mount(), PATH)
    database.execute("CREATE TABLE t (body)")
    machine.disk.capacity_bytes = machine.disk.used_bytes + 8192
    with pytest.raises(StorageFull):
        database.execute("INSERT INTO t VALUES (zeroblob(100000))")
    database.rollback()
    machine.disk.capacity_bytes = 1 << 40
    database.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert database.execute("SELECT count(*) FROM t").get == 1


def test_a_database_has_one_process() -> None:
    machine = Machine(0)
    Database.open(machine.mount(), PATH)
    with pytest.raises(Unavailable, match="open in another process"):
        Database.open(machine.mount(), PATH)


def test_B3_a_sync_that_fails_while_a_database_is_opened_fences() -> None:
    machine = Machine(0)
    machine.disk.sync_fails = True
    with pytest.raises(Fenced):
        Database.open(machine.mount(), PATH)


@pytest.mark.parametrize("seed", range(5))
def test_B3_a_power_cut_at_every_step_of_the_recovery_from_a_failed_sync(seed: int) -> None:
    """The log that recovery finds in the page cache is not on the disk, and the kernel believes that it is. If it
    were copied into the database as it is, a power cut in the middle would leave half a transaction."""
    for step in count(1):
        machine = Machine(seed)
        if not _recovery_is_cut_at(machine, step):
            assert step > 10, "recovery has more steps than that"
            return
        machine.disk.power_cut()
        database = Database.open(machine.mount(), PATH)
        assert database.execute("PRAGMA integrity_check").get == "ok", step
        versions = database.execute("SELECT DISTINCT version FROM t").fetchall()
        assert versions in ([(1,)], [(2,)]), (step, versions)


def _recovery_is_cut_at(machine: Machine, step: int) -> bool:
    mount = machine.mount()
    database = Database.open(mount, PATH)
    database.execute("CREATE TABLE t (version INTEGER, pad BLOB)")
    for _ in range(20):
        database.execute("INSERT INTO t VALUES (1, zeroblob(3000))")
    database.close()
    database = Database.open(mount, PATH)
    database.begin()
    database.execute("UPDATE t SET version = 2")
    commit = database.commit()
    assert commit is not None
    machine.disk.sync_fails = True
    with pytest.raises(OSError, match="refused"):
        commit.wal.sync()
    machine.disk.sync_fails = False
    mount.bury()
    at = machine.disk.operations + step
    mount = machine.mount()

    def crash(number: int, _name: str, _path: str) -> None:
        if number == at:
            mount.die()
            raise Crashed

    machine.disk.before_operation = crash
    with contextlib.suppress(Crashed, PenstockError, apsw.Error):
        Database.open(mount, PATH).close()
    machine.disk.before_operation = lambda _number, _name, _path: None
    mount.bury()
    return machine.disk.operations >= at


@pytest.mark.parametrize("seed", range(20))
def test_B1_a_power_cut_at_every_step_from_an_opening_that_finds_no_log_to_the_next(seed: int) -> None:
    """The removed log may come back with its name, the new one may be torn: neither takes or puts back anything."""
    for step in count(1):
        machine = Machine(seed)
        before, durable, cut = _life_is_cut_at(machine, step)
        machine.disk.power_cut()
        database = Database.open(machine.mount(), PATH)
        assert database.execute("PRAGMA integrity_check").get == "ok", step
        versions = [version for (version,) in database.execute("SELECT DISTINCT version FROM t")]
        assert len(versions) == 1 and versions[0] >= (durable or before), (step, versions)
        assert database.execute("SELECT count(*) FROM t").get == 20
        if not cut:
            assert step > 10, "a life has more steps than that"
            return


def _life_is_cut_at(machine: Machine, step: int) -> tuple[int, int | None, bool]:
    """Closes a database, opens it again, writes twice and closes it, unless cut. Gives the version before, the
    latest that was made durable since, and whether it was cut."""
    mount = machine.mount()
    database = Database.open(mount, PATH)
    database.execute("CREATE TABLE t (version INTEGER, pad BLOB)")
    for _ in range(20):
        database.execute("INSERT INTO t VALUES (1, zeroblob(3000))")
    database.execute("UPDATE t SET version = 2")
    database.close()
    assert machine.disk.find(f"{PATH}-wal") is None
    at = machine.disk.operations + step
    durable = None

    def crash(number: int, _name: str, _path: str) -> None:
        if number == at:
            mount.die()
            raise Crashed

    machine.disk.before_operation = crash
    with contextlib.suppress(Crashed, PenstockError, apsw.Error):
        database = Database.open(mount, PATH)
        for version in (3, 4):
            database.begin()
            database.execute("UPDATE t SET version = ?1", (version,))
            commit = database.commit()
            assert commit is not None
            commit.wal.sync()
            durable = version if mount.alive else durable
        database.close()
    machine.disk.before_operation = lambda _number, _name, _path: None
    mount.bury()
    return 2, durable, machine.disk.operations >= at


def test_an_opening_that_finds_no_log_syncs_the_new_log_and_its_name_and_nothing_else() -> None:
    machine = Machine(0)
    mount = machine.mount()
    Database.open(mount, PATH).close()
    syncs: list[tuple[str, str]] = []

    def note(_number: int, name: str, path: str) -> None:
        if name in ("sync", "sync_dir"):
            syncs.append((name, path))

    machine.disk.before_operation = note
    database = Database.open(mount, PATH)
    assert syncs == [("sync", f"{PATH}-wal"), ("sync_dir", "/data")]
    database.close()
