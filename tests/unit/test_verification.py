"""What ledgers and buckets may say, and what is wrong with it."""

from __future__ import annotations

import pytest

from penstock.base.ids import next_ulid, ulid_ms
from penstock.base.rng import seeded_rng
from penstock.pipelines.layout import Layout, file_key
from penstock.pipelines.ledger import LedgerFile, LedgerPage, Segment, State
from penstock.pipelines.stored_file import FileFacts
from penstock.pipelines.verification import Layouts, Place, ShardCheck, ShardCount, extra, is_older

ULID = "01JDCM5W0Q7Y8Z9ABCDEFGHJKM"
AT_MS = 1_795_446_000_000


def check(*, keeps_records: bool = True) -> ShardCheck:
    return ShardCheck(ShardCount("p/1/0", 1, "open"), "b", keeps_records)


def segment(first_record: int, records: int, state: State = State.FREED) -> Segment:
    ulid = f"{ULID[:-6]}{first_record:06}"
    return Segment(ulid, state, first_record, first_record, first_record, records, 10, AT_MS, AT_MS, None)


def file(records: int, **more: object) -> LedgerFile:
    values = {"delivered": True, "size_bytes": 9, "sha256": "5a"} | more
    return LedgerFile(ULID, "k", "data", records, 10, **values)  # type: ignore[arg-type]


def page(*segments: Segment, from_record: int = 1, accepted: int = 0) -> LedgerPage:
    return LedgerPage(list(segments), [], False, from_record, accepted)


def kinds(shard: ShardCheck) -> list[str]:
    return [problem.kind for problem in shard.problems]


def test_segments_that_follow_each_other_have_each_record_once() -> None:
    shard = check()
    shard.begin_page(page())
    for one in (segment(1, 3), segment(4, 2)):
        shard.take(one, [file(one.records)])
    shard.end_shard(page(accepted=6))
    assert shard.problems == []
    count = shard.count
    assert (count.accepted, count.in_files, count.pending, count.segments) == (6, 5, 1, 2)


def test_records_between_two_segments_are_a_gap() -> None:
    shard = check()
    shard.take(segment(1, 3), [file(3)])
    shard.take(segment(6, 1), [file(1)])
    [problem] = shard.problems
    assert (problem.kind, problem.segment) == ("gap", segment(6, 1).ulid)
    assert "2 records from number 4" in problem.message
    assert shard.next_record == 7


def test_records_of_two_segments_are_an_overlap() -> None:
    shard = check()
    shard.take(segment(1, 5), [file(5)])
    shard.take(segment(4, 1), [file(1)])
    [problem] = shard.problems
    assert problem.kind == "overlap" and "1 records from number 4" in problem.message
    assert shard.next_record == 6


def test_what_the_ledger_forgot_is_no_gap_also_in_the_middle_of_it() -> None:
    shard = check()
    shard.begin_page(page(from_record=11))
    shard.take(segment(11, 2), [file(2)])
    shard.begin_page(page(from_record=21))
    shard.take(segment(21, 1), [file(1)])
    shard.end_shard(page(accepted=21))
    assert shard.problems == []
    assert shard.count.before_ledger == 10 + 8
    assert shard.count.accepted == shard.count.before_ledger + shard.count.in_files + shard.count.pending


def test_a_ledger_with_more_records_than_came_is_wrong() -> None:
    shard = check()
    shard.take(segment(1, 3), [file(3)])
    shard.end_shard(page(accepted=2))
    assert (kinds(shard), shard.count.pending) == (["count"], 0)


@pytest.mark.parametrize("state", [State.SEALED, State.PREPARED])
def test_a_segment_on_its_way_is_pending_but_its_files_that_are_there_are_looked_at(state: State) -> None:
    shard = check()
    there, waiting = file(1), file(2, delivered=False, size_bytes=None)
    assert shard.take(segment(1, 3, state), [there, waiting]) == [there]
    assert (shard.count.pending, shard.count.in_files, shard.problems) == (3, 0, [])


@pytest.mark.parametrize(("keeps_records", "found"), [(True, ["count"]), (False, [])])
def test_only_a_transform_may_change_the_number_of_records(keeps_records: bool, found: list[str]) -> None:
    shard = check(keeps_records=keeps_records)
    shard.take(segment(1, 3), [file(2)])
    assert kinds(shard) == found


def facts(size_bytes: int = 9, sha256: str = "5a", lines: int | None = 2, damage: str = "") -> FileFacts:
    return FileFacts(size_bytes, sha256, lines, damage)


@pytest.mark.parametrize(
    ("there", "size_bytes", "read", "found"),
    [
        (file(2), 9, None, []),
        (file(2), 9, facts(), []),
        (file(2), None, None, ["missing"]),
        (file(2, delivered=False), 9, None, ["missing"]),
        (file(2), 8, None, ["size"]),
        (file(2), 8, facts(8, "00", 1), ["size"]),
        (file(2), 9, facts(sha256="00"), ["checksum"]),
        (file(2), 9, facts(sha256="00", lines=None, damage="It is not gzip."), ["checksum"]),
        (file(2), 9, facts(lines=3), ["count"]),
        (file(2), 9, facts(lines=None, damage="It is not gzip."), ["count"]),
    ],
)
def test_a_file_is_what_was_delivered(
    there: LedgerFile, size_bytes: int | None, read: FileFacts | None, found: list[str]
) -> None:
    shard = check()
    shard.file(there, size_bytes, read)
    assert kinds(shard) == found
    assert all((problem.bucket, problem.key) == ("b", "k") for problem in shard.problems)


LAYOUTS = [
    Layout(""),
    Layout("a/b", compression="zstd"),
    Layout("p.q", "", "${slug}", "none"),
    Layout("x", "${year}/${month}/${day}/${hr}/${minute}", "${date}-${slug}-${slug}${extension}", "deflate"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dead", [False, True])
def test_a_files_key_tells_its_ulid(layout: Layout, dead: bool) -> None:
    key = file_key(layout, AT_MS, ULID, dead=dead)
    layouts = Layouts([layout])
    assert layouts.ulid_of(key) == ULID
    assert any(key.startswith(root) for root in layouts.roots())
    for other in (key + "x", "y" + key, key.replace(ULID, ULID.lower()), key.replace(ULID, ULID[1:])):
        assert layouts.ulid_of(other) is None


def test_two_ulids_in_one_name_are_no_file() -> None:
    key = file_key(LAYOUTS[3], AT_MS, ULID)
    assert Layouts(LAYOUTS).ulid_of(key[::-1].replace("MKJ", "ZKJ", 1)[::-1]) is None


def test_no_root_is_below_another() -> None:
    layouts = Layouts([Layout("a"), Layout("a/b"), Layout("a", "x/${date}"), Layout("c", "")])
    expected = "a/_dead/event_date= a/_dead/x/ a/b/_dead/event_date= a/b/event_date= a/event_date= a/x/ c/"
    assert layouts.roots() == expected.split()
    assert Layouts([Layout("", "", "${slug}"), Layout("a")]).roots() == [""]


def test_a_ulid_tells_when_it_was_made() -> None:
    ulid = next_ulid(None, AT_MS, seeded_rng(1))
    assert ulid_ms(ulid) == AT_MS
    assert is_older(ulid, AT_MS + 1) and not is_older(ulid, AT_MS)


def test_an_extra_file_says_where_it_is() -> None:
    problem = extra(Place("https://s3.example", "b"), "k", 7)
    assert (problem.kind, problem.bucket, problem.key) == ("extra", "b", "k") and "7 bytes" in problem.message
