"""Buckets in folders: an object is there whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import ClassVar

import pytest

from penstock.base.errors import Invalid, NotFound, StorageFull, Unavailable
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
            with pytest.raises(Invalid):
                await store.put(bucket, inside, lambda: [b"escaped"])
            with pytest.raises(Invalid):
                await store.get(bucket, inside)
        with pytest.raises(Invalid):
            await store.list(key)

    run(tmp_path, main)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"escaped"]


KEYS = sorted(["a", "a-b", "a.txt", "a0", "b/c", "b/c-d", "b/d/e", "b/d/f", "b0", "day=1/hr=1/x", "day=2/x", "é/ü"])


@pytest.mark.parametrize("prefix", ["", "a", "a-", "b", "b/", "b/d", "b/d/e", "c", "day=", "day=1/hr", "é"])
def test_pages_put_together_are_the_list(tmp_path: Path, prefix: str) -> None:
    async def main(store: FolderStore) -> None:
        for key in KEYS:
            await store.put("b", key, lambda: [b"x"])
        expected = [key for key in KEYS if key.startswith(prefix)]
        assert [info.key for info in await store.list("b", prefix)] == expected
        for limit in (1, 2, 5):
            found: list[str] = []
            while page := await store.list("b", prefix, after=found[-1] if found else "", limit=limit):
                assert len(page) <= limit
                found += [info.key for info in page]
            assert found == expected
        for after in ("A", "a", "a/", "b/d", "b/d/e", "b/zz", "day=1", "zz"):
            keys = [info.key for info in await store.list("b", prefix, after=after)]
            assert keys == [key for key in expected if key > after]

    run(tmp_path, main)


def test_a_page_looks_into_no_folder_that_it_does_not_need(tmp_path: Path) -> None:
    class CountingDisk(OsDisk):
        listed: ClassVar[list[str]] = []

        def list_dir(self, path: str) -> list[str]:
            self.listed.append(path)
            return super().list_dir(path)

    async def main(store: FolderStore) -> None:
        for day in range(30):
            await store.put("b", f"day={day:02}/x", lambda: [b"x"])
        CountingDisk.listed.clear()
        await store.list("b", "day=", after="day=10/x", limit=2)
        assert [Path(path).name for path in CountingDisk.listed] == ["b", "day=10", "day=11", "day=12"]

    run(tmp_path, main, CountingDisk())


def test_a_big_object_is_read_in_pieces(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000

    async def main(store: FolderStore) -> None:
        await store.put("b", "big", lambda: [content])
        pieces = [piece async for piece in store.read("b", "big")]
        assert b"".join(pieces) == content and max(map(len, pieces)) <= 1 << 20
        assert [piece async for piece in store.read("b", "big")] == pieces
        for bucket, key in (("b", "nothing"), ("unheard-of", "big")):
            with pytest.raises(NotFound):
                await anext(store.read(bucket, key))

    run(tmp_path, main)


def test_a_reader_sees_one_version_even_if_the_object_is_replaced_meanwhile(tmp_path: Path) -> None:
    async def main(store: FolderStore) -> None:
        await store.put("b", "k", lambda: [b"1" * 3_000_000])
        async with aclosing(store.read("b", "k")) as pieces:
            first = await anext(pieces)
            await store.put("b", "k", lambda: [b"2" * 3_000_000])
            rest = [piece async for piece in pieces]
        assert first + b"".join(rest) == b"1" * 3_000_000

    run(tmp_path, main)


def test_a_reader_that_stops_early_leaves_no_file_open(tmp_path: Path) -> None:
    def open_files() -> list[Path]:
        return [Path(link).resolve() for link in Path("/dev/fd").iterdir() if link.exists()]

    async def main(store: FolderStore) -> None:
        await store.put("b", "k", lambda: [b"1" * 3_000_000])
        target = (tmp_path / "buckets" / "b" / "k").resolve()
        async with aclosing(store.read("b", "k")) as pieces:
            await anext(pieces)
            assert target in open_files()
        assert target not in open_files()

    run(tmp_path, main)


def test_the_head_of_an_object_is_its_size(tmp_path: Path) -> None:
    async def main(store: FolderStore) -> None:
        await store.put("b", "d/k", lambda: [b"abc"])
        assert await store.head("b", "d/k") == ObjectInfo("d/k", 3)
        for bucket, key in (("b", "d"), ("b", "nothing"), ("b", "d/k/below"), ("unheard-of", "k")):
            assert await store.head(bucket, key) is None

    run(tmp_path, main)


def test_a_deleted_object_is_gone_and_deleting_it_again_is_harmless(tmp_path: Path) -> None:
    async def main(store: FolderStore) -> None:
        await store.put("b", "d/k", lambda: [b"abc"])
        await store.put("b", "d/other", lambda: [b"abc"])
        for _ in range(2):
            await store.delete("b", "d/k")
            assert await store.head("b", "d/k") is None
        await store.delete("b", "d")
        await store.delete("unheard-of", "k")
        assert [info.key for info in await store.list("b")] == ["d/other"]

    run(tmp_path, main)


def test_a_delete_is_durable_even_if_a_try_before_it_got_only_half_way(tmp_path: Path) -> None:
    synced = []

    class Disk(FailingDisk):
        def sync_dir(self, path: str) -> None:
            super().sync_dir(path)
            synced.append(path)

    disk = Disk()

    async def main(store: FolderStore) -> None:
        await store.put("b", "d/k", lambda: [b"abc"])
        disk.fail_at = disk.steps + 1
        with pytest.raises(Unavailable):
            await store.delete("b", "d/k")
        synced.clear()
        await store.delete("b", "d/k")
        assert synced == [str(tmp_path / "buckets" / "b" / "d")]

    run(tmp_path, main, disk)
