"""Buckets in folders: an object is there whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from penstock.base.errors import NotFound, StorageFull, Unavailable
from penstock.storage.disk import OsDisk
from penstock.storage.object_store import FolderStore, ObjectInfo
from penstock.storage.offload import Threads


class FailingDisk(OsDisk):
    """Fails before its n-th step, as a crash there would end it; counts them."""

    def __init__(self, fail_at: int = 0, code: int = errno.EIO) -> None:
        super().__init__()
        self.steps = 0
        self.fail_at = fail_at
        self._code = code

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.fail_at:
            raise OSError(self._code, "the disk failed")

    def write(self, path: str, chunks: Iterator[bytes]) -> int:  # type: ignore[override]
        self._step()

        def failing() -> Iterator[bytes]:
            for chunk in chunks:
                self._step()
                yield chunk
            self._step()

        return super().write(path, failing())

    def rename(self, source: str, target: str) -> None:
        self._step()
        super().rename(source, target)

    def sync_dir(self, path: str) -> None:
        self._step()
        super().sync_dir(path)


def run(tmp_path: Path, main: Callable[[FolderStore], Awaitable[None]], disk: OsDisk | None = None) -> None:
    offload = Threads()
    store = FolderStore(disk or OsDisk(), offload, str(tmp_path / "buckets"), str(tmp_path / "unfinished"))
    try:
        asyncio.run(main(store))  # type: ignore[arg-type]
    finally:
        offload.close()


def test_what_was_put_can_be_got_and_listed(tmp_path: Path) -> None:
    async def main(store: FolderStore) -> None:
        assert await store.put("b", "day=1/hr=2/x.json", lambda: [b"ab", b"", b"cd"]) == 4
        assert await store.put("b", "day=1/a.json", list) == 0
        await store.put("b2", "day=1/other.json", lambda: [b"z"])
        assert await store.get("b", "day=1/hr=2/x.json") == b"abcd"
        assert list(await store.list("b")) == [ObjectInfo("day=1/a.json", 0), ObjectInfo("day=1/hr=2/x.json", 4)]
        assert [info.key for info in await store.list("b", "day=1/hr")] == ["day=1/hr=2/x.json"]
        assert list(await store.list("b", "day=2")) == []
        assert list(await store.list("unheard-of")) == []
        assert list((tmp_path / "unfinished").iterdir()) == []

    run(tmp_path, main)


def test_putting_under_the_same_key_replaces(tmp_path: Path) -> None:
    async def main(store: FolderStore) -> None:
        await store.put("b", "k", lambda: [b"a long first version"])
        await store.put("b", "k", lambda: [b"short"])
        assert await store.get("b", "k") == b"short"
        assert len(await store.list("b")) == 1

    run(tmp_path, main)


@pytest.mark.parametrize("key", ["nothing", "folder", "folder/nothing"])
def test_what_is_not_there_is_not_found(tmp_path: Path, key: str) -> None:
    async def main(store: FolderStore) -> None:
        await store.put("b", "folder/x", lambda: [b"x"])
        for bucket in ("b", "unheard-of"):
            with pytest.raises(NotFound):
                await store.get(bucket, key)

    run(tmp_path, main)


def test_an_object_is_there_whole_or_not_at_all_wherever_the_disk_fails(tmp_path: Path) -> None:
    """SQLite's method: fail the n-th step, for n = 1, 2, 3 ... until none fails."""
    n, failed = 0, True
    while failed:
        n += 1
        disk, folder = FailingDisk(n), tmp_path / str(n)

        async def main(store: FolderStore, disk: FailingDisk = disk, n: int = n) -> None:
            nonlocal failed
            try:
                await store.put("b", "d/k", lambda: [b"first ", b"second"])
                failed = disk.steps >= n
                assert not failed
            except Unavailable as error:
                assert "the disk failed" in error.message
            found = {info.key: await store.get("b", info.key) for info in await store.list("b")}
            assert found in ({}, {"d/k": b"first second"})
            disk.fail_at = 0
            await store.put("b", "d/k", lambda: [b"first ", b"second"])  # the next try
            assert await store.get("b", "d/k") == b"first second"

        run(folder, main, disk)
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["k"]
    assert n > 6  # write, chunks, sync, rename, folders


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    async def main(store: FolderStore) -> None:
        with pytest.raises(StorageFull):
            await store.put("b", "k", lambda: [b"x"])
        await store.put("b", "k", lambda: [b"x"])

    run(tmp_path, main, FailingDisk(4, errno.ENOSPC))


def test_what_makes_the_bytes_may_fail_and_nothing_is_there(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"a part"
        raise ValueError("no more")

    async def main(store: FolderStore) -> None:
        with pytest.raises(ValueError, match="no more"):
            await store.put("b", "k", broken)
        assert list(await store.list("b")) == []

    run(tmp_path, main)


@pytest.mark.parametrize(
    ("one", "other"),
    [(("b", "x/k"), ("b", "y/k")), (("b-c", "k"), ("b", "c-k"))],
    ids=["same last part", "same letters"],
)
def test_two_objects_made_at_the_same_time_do_not_mix(
    tmp_path: Path, one: tuple[str, str], other: tuple[str, str]
) -> None:
    meet = threading.Barrier(2, timeout=10)

    def chunks(name: bytes) -> Callable[[], Iterator[bytes]]:
        def make() -> Iterator[bytes]:
            meet.wait()
            yield name * 1000
            meet.wait()

        return make

    async def main(store: FolderStore) -> None:
        await asyncio.gather(store.put(*one, chunks(b"one")), store.put(*other, chunks(b"other")))
        assert await store.get(*one) == b"one" * 1000
        assert await store.get(*other) == b"other" * 1000

    run(tmp_path, main)


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x", "a//b", "", ".", "a/.", "a\0b", ".."])
def test_no_key_and_no_bucket_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").write_bytes(b"secret")

    async def main(store: FolderStore) -> None:
        for bucket, inside in (("b", key), (key, "x")):
            with pytest.raises(AssertionError):
                await store.put(bucket, inside, lambda: [b"escaped"])
            with pytest.raises(AssertionError):
                await store.get(bucket, inside)
        with pytest.raises(AssertionError):
            await store.list(key)

    run(tmp_path, main)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"escaped"]
