"""Records that could not be delivered as they should: counted by reason, in files of their own."""

from __future__ import annotations

from .harness import Face


def test_dead_records_are_counted_by_reason(face: Face) -> None:
    id = face.create(partition_time={"field": "at"}, batch={"max_rows": 4})
    good = {"at": "2026-11-23T14:05:06Z"}
    assert face.ingest(id, [good, {"at": "noon"}, {}, good]).status == 200
    face.wait_delivered()
    lines = face.get("/metrics").body.decode().splitlines()
    assert 'penstock_records_dead_total{executor="0",reason="partition_time"} 2.0' in lines
    [shard] = face.run(face.coordinator(id).shards())
    assert shard.status.totals.dead_reasons == {"partition_time": 2}
    assert (shard.status.totals.delivered_records, shard.status.totals.dead_records) == (2, 2)
