"""Files that wait on the local disk for their bucket."""

from __future__ import annotations

from .harness import BUCKET, PIPELINES, Face


def test_a_file_that_was_damaged_while_it_waited_is_not_delivered(face: Face) -> None:
    in_the_way = face.folder / "buckets" / BUCKET
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_bytes(b"no folder")
    id = face.create(partition_time={"field": "at", "format": "unix_s"}, batch={"max_rows": 1})
    assert face.ingest(id, [{"at": 60}]).status == 200
    face.wait(lambda: face.node.statistics.delivery_failures == 1)
    (waiting,) = [path for path in (face.folder / "spool").rglob("*") if path.is_file()]
    whole = waiting.read_bytes()
    waiting.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    in_the_way.unlink()
    face.wait(lambda: face.node.statistics.delivery_failures >= 2 or bool(face.files()))
    assert face.files() == []
    (shard,) = face.control("GET", f"{PIPELINES}/clicks/shards").result
    assert "damaged" in shard["last_error"] and shard["backlog"]["records"] == 1
    waiting.write_bytes(whole)
    face.wait_delivered()
    assert face.lines() == [b'{"at": 60}']
