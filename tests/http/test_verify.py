"""`GET …/verify`: what it proves, and each thing that it finds wrong."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest

from penstock.pipelines import verifier

from .harness import BUCKET, PIPELINES, Face, content, pipeline_body

Report = dict[str, Any]


def verify(face: Face, name: str = "clicks", deep: bool = False) -> Report:
    """All steps: the counts of shards (added up by name) and buckets, the problems, the number of steps."""
    report: Report = {"shards": {}, "buckets": {}, "problems": [], "steps": 0}
    cursor = ""
    while cursor is not None:
        query = f"?deep={str(deep).lower()}" + (f"&cursor={cursor}" if cursor else "")
        result = face.control("GET", f"{PIPELINES}/{name}/verify{query}").result
        for shard in result["checked"]["shards"]:
            add(report["shards"].setdefault(shard["shard"], {}), shard)
        add(report["buckets"], result["checked"]["buckets"])
        report["problems"] += result["problems"]
        report["steps"] += 1
        assert report["steps"] < 100
        cursor = result["cursor"]
    return report


def add(total: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        summed = isinstance(value, int) and name != "version"
        total[name] = total.get(name, 0) + value if summed else value


def totals(report: Report) -> dict[str, int]:
    total: dict[str, Any] = {}
    for shard in report["shards"].values():
        add(total, {name: value for name, value in shard.items() if isinstance(value, int) and name != "version"})
    return total


def kinds(report: Report) -> list[str]:
    return [problem["kind"] for problem in report["problems"]]


@pytest.fixture
def delivered(face: Face) -> Face:
    """With three files of two records each in the bucket."""
    id = face.create(batch={"max_rows": 2})
    for n in range(3):
        face.ingest(id, [{"n": n}, {"n": -n}])
        face.wait_delivered()
    assert len(face.files()) == 3
    return face


def test_all_records_are_in_exactly_one_file(delivered: Face) -> None:
    report = verify(delivered)
    size = sum(path.stat().st_size for path in delivered.files())
    counts = {"accepted": 6, "in_files": 6, "pending": 0, "before_ledger": 0, "segments": 3}
    assert totals(report) == counts | {"files": 3, "bytes": size, "delivered": 6, "dead": 0}
    assert report["buckets"] == {"objects": 3, "own": 3, "others": 0}
    assert report["problems"] == []


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate", "zstd"])
def test_files_of_every_compression_can_be_read_again(face: Face, compression: str) -> None:
    id = face.create(batch={"max_rows": 500}, compression={"type": compression})
    face.ingest(id, [{"n": n, "pad": "x" * 1000} for n in range(500)])
    face.wait_delivered()
    report = verify(face, deep=True)
    assert (report["problems"], totals(report)["in_files"]) == ([], 500)


def test_what_waits_is_pending(face: Face) -> None:
    face.ingest(face.create(), [{}, {}])
    report = verify(face)
    counts = totals(report)
    assert (counts["accepted"], counts["pending"], counts["files"], report["problems"]) == (2, 2, 0, [])


def test_a_pipeline_without_a_record_is_proven(face: Face) -> None:
    face.create()
    report = verify(face)
    assert (totals(report)["accepted"], report["problems"]) == (0, [])


def test_all_generations_are_looked_at(delivered: Face) -> None:
    body = pipeline_body(batch={"max_rows": 1}, path={"bucket": "other", "prefix": "p/q"})
    id = delivered.control("PUT", f"{PIPELINES}/clicks", body).result["id"]
    delivered.ingest(id, [{"n": 1}])
    delivered.wait_delivered()
    report = verify(delivered)
    assert [(s["version"], s["state"], s["in_files"]) for s in report["shards"].values()] == [
        (1, "drained", 6),
        (2, "open", 1),
    ]
    assert (report["buckets"]["own"], report["problems"]) == (4, [])
    delivered.files("other")[0].unlink()
    assert kinds(verify(delivered)) == ["missing"]


def test_a_file_that_is_gone_is_missing(delivered: Face) -> None:
    gone = delivered.files()[1]
    gone.unlink()
    [problem] = verify(delivered)["problems"]
    key = gone.relative_to(delivered.folder / "buckets" / BUCKET).as_posix()
    assert (problem["kind"], problem["bucket"], problem["key"]) == ("missing", BUCKET, key)
    assert problem["segment"] in key and "2 records" in problem["message"]


def test_a_file_that_was_cut_has_the_wrong_size(delivered: Face) -> None:
    path = delivered.files()[0]
    path.write_bytes(path.read_bytes()[:-1])
    assert kinds(verify(delivered)) == ["size"]


def test_a_file_with_other_bytes_of_the_same_size_is_found_by_reading_it(delivered: Face) -> None:
    path = delivered.files()[0]
    changed = bytearray(path.read_bytes())
    changed[-9] ^= 1
    path.write_bytes(changed)
    assert kinds(verify(delivered)) == []
    assert kinds(verify(delivered, deep=True)) == ["checksum"]


def test_a_file_that_is_in_no_ledger_is_extra(delivered: Face) -> None:
    copy = copied(delivered.files()[0])
    [problem] = verify(delivered)["problems"]
    assert (problem["kind"], problem["key"].rsplit("/", 1)[1]) == ("extra", copy.name)


def test_a_copy_of_a_file_in_another_partition_is_extra(delivered: Face) -> None:
    path = delivered.files()[0]
    other = path.parent.parent / "hr=99" / path.name
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    assert kinds(verify(delivered)) == ["extra"]


def test_what_does_not_look_like_a_file_of_the_pipeline_is_no_matter(delivered: Face) -> None:
    folder = delivered.files()[0].parent
    (folder / "README.txt").write_bytes(b"mine")
    (folder / "01.json.gz").write_bytes(b"mine")
    (delivered.folder / "buckets" / BUCKET / "other").write_bytes(b"mine")
    report = verify(delivered)
    assert (report["buckets"]["others"], report["problems"]) == (2, [])


def test_a_file_from_before_the_pipeline_was_made_is_no_matter(delivered: Face) -> None:
    path = delivered.files()[0]
    path.with_name("01ARZ3NDEKTSV4RRFFQ69G5FAV.json.gz").write_bytes(b"of 2016")
    report = verify(delivered)
    assert (report["buckets"]["others"], report["problems"]) == (1, [])


def test_files_of_another_pipeline_in_the_same_folder_are_no_matter(delivered: Face) -> None:
    id = delivered.create("orders", batch={"max_rows": 1})
    delivered.ingest(id, [{"n": 1}])
    delivered.wait_delivered()
    for name, own, others in (("clicks", 3, 1), ("orders", 1, 3)):
        report = verify(delivered, name)
        assert (report["buckets"]["own"], report["buckets"]["others"], report["problems"]) == (own, others, [])


def test_dead_letters_count_as_delivered(face: Face) -> None:
    id = face.create(partition_time={"field": "at"}, batch={"max_rows": 3})
    face.ingest(id, [{"at": "2026-01-02T03:04:05Z"}, {"at": "2020-01-02T03:04:05Z"}, {}])
    face.wait_delivered()
    report = verify(face, deep=True)
    counts = totals(report)
    assert (counts["in_files"], counts["delivered"], counts["dead"], counts["files"]) == (3, 2, 1, 3)
    assert (report["buckets"]["own"], report["problems"]) == (3, [])
    dead = next(path for path in face.files() if "_dead" in path.parts)
    copied(dead)
    assert kinds(verify(face)) == ["extra"]


def test_steps_bounded_by_segments_say_the_same(delivered: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered.files()[0].unlink()
    copied(delivered.files()[0])
    whole = verify(delivered)
    monkeypatch.setattr(verifier, "VERIFY_SEGMENTS_MAX", 1)
    monkeypatch.setattr(verifier, "VERIFY_HEADS_MAX", 1)
    monkeypatch.setattr(verifier, "VERIFY_OBJECTS_MAX", 1)
    monkeypatch.setattr(verifier, "VERIFY_MS_MAX", 0)
    steps = verify(delivered)
    assert (whole.pop("steps"), steps.pop("steps")) == (2, 7)
    assert steps == whole


#: `{"x":[[[[…`
DEEP = urlsafe_b64encode(b'{"x":' + b"[" * 3_000).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "query",
    ["cursor=x", "cursor=e30x", "cursor=" + "A" * 5000, "deep=yes", "cursor=WzFd", "cursor=" + DEEP],
)
def test_a_query_that_makes_no_sense_is_refused(face: Face, query: str) -> None:
    face.create()
    answer = face.control("GET", f"{PIPELINES}/clicks/verify?{query}")
    assert answer.control_error[0] == 400 and query.split("=")[0] in answer.control_error[2]


def test_there_is_nothing_to_verify_of_a_pipeline_that_is_not_there(face: Face) -> None:
    assert face.control("GET", f"{PIPELINES}/nobody/verify").control_error[:2] == (404, 1000)


def copied(path: Path) -> Path:
    """A file of the same content under a ULID of its own."""
    first = path.name[25]
    copy = path.with_name(path.name[:25] + ("A" if first != "A" else "B") + path.name[26:])
    copy.write_bytes(path.read_bytes())
    assert content(copy) == content(path)
    return copy
