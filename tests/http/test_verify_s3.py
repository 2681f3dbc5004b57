"""Verifying and replaying a pipeline that delivers to a real S3 server."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.s3 import READER, WRITER, WRONG, S3Server

from penstock.storage.connection import S3Connection
from penstock.storage.object_store import ObjectStore

from .harness import PIPELINES, SECRETS, Face, pipeline_body
from .test_verify import kinds, totals, verify


class Bucket:
    """A bucket of the server, with two files of a pipeline that delivers there."""

    def __init__(self, face: Face, server: S3Server) -> None:
        self._face = face
        self.server = server
        self.name = server.make_bucket()
        connection: S3Connection = server.connection(SECRETS)
        self.store: ObjectStore = face.node.runtime.ports.s3.at(connection)
        id = face.create(**self.settings())
        for n in range(2):
            face.ingest(id, [{"n": n}])
            face.wait_delivered()
        self.keys = [info.key for info in face.run(self.store.list(self.name))]
        assert len(self.keys) == 2

    def settings(self, key: Any = WRITER) -> dict[str, Any]:
        return {
            "path": {"bucket": self.name, "prefix": "raw"},
            "batch": {"max_rows": 1},
            "credentials": {
                "endpoint": self.server.endpoint,
                "access_key_id": key.access_key_id,
                "secret_access_key": key.secret_access_key,
            },
        }

    def put(self, key: str, content: bytes) -> None:
        self._face.run(self.store.put(self.name, key, lambda: [content]))

    def get(self, key: str) -> bytes:
        return self._face.run(self.store.get(self.name, key))

    def delete(self, key: str) -> None:
        self._face.run(self.store.delete(self.name, key))


@pytest.fixture
def bucket(face: Face, s3_server: S3Server) -> Bucket:
    return Bucket(face, s3_server)


def test_files_in_s3_are_proven_and_each_thing_wrong_with_them_is_found(face: Face, bucket: Bucket) -> None:
    report = verify(face, deep=True)
    assert (report["problems"], totals(report)["in_files"], report["buckets"]["own"]) == ([], 2, 2)
    first, second = bucket.keys
    whole = bucket.get(first)
    bucket.put(first, whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    assert (kinds(verify(face)), kinds(verify(face, deep=True))) == ([], ["checksum"])
    bucket.put(first, whole + b"x")
    assert kinds(verify(face)) == ["size"]
    bucket.delete(first)
    bucket.put(second.replace("hr=", "hr=9"), b"a copy under another hour: no name of ours")
    bucket.put(second.replace("/hr=", "x/hr="), b"nor this")
    bucket.put(second[:-9] + ("A" if second[-9] != "A" else "B") + second[-8:], b"but this")
    assert sorted(kinds(verify(face))) == ["extra", "missing"]


def test_a_bucket_that_cannot_be_looked_at_is_no_problem_found(face: Face, bucket: Bucket) -> None:
    answer = face.control("PUT", f"{PIPELINES}/clicks", pipeline_body(**bucket.settings(READER)))
    assert answer.status == 200
    assert kinds(verify(face)) == []  # a key that may only read is enough
    bucket.server.kill()
    try:
        status, _, message = face.control("GET", f"{PIPELINES}/clicks/verify").control_error
        assert (status, bucket.server.endpoint in message) == (503, True)
    finally:
        bucket.server.start()


def test_a_key_that_opens_nothing_is_said_to_be_wrong(face: Face, bucket: Bucket) -> None:
    # It became wrong after it was given, or it would have been refused.
    coordinator = face.coordinator(face.control("GET", f"{PIPELINES}/clicks").result["id"])
    description = face.run(coordinator.describe())
    settings = replace(description.settings, s3=bucket.server.connection(SECRETS, WRONG))
    face.run(coordinator.update(settings, ""))
    status, _, message = face.control("GET", f"{PIPELINES}/clicks/verify").control_error
    assert status == 400 and message.startswith("destination cannot be used: ")


def test_dead_letters_in_s3_are_sent_again(face: Face, bucket: Bucket) -> None:
    clicks = f"{PIPELINES}/clicks"
    timed = pipeline_body(**bucket.settings(), partition_time={"field": "at"})
    id = face.control("PUT", clicks, timed).result["id"]
    face.ingest(id, [{"n": 2}, {"n": 3}])
    face.wait_delivered()
    assert face.control("PUT", clicks, pipeline_body(**bucket.settings())).status == 200
    result = face.control("POST", f"{clicks}/replay", {"since": "2020-01-01T00:00:00Z"}).result
    assert result["replayed"]["reasons"] == {"partition_time": 2}
    face.wait_delivered()
    report = verify(face, deep=True)
    counts = totals(report)
    assert (counts["delivered"], counts["dead"], report["problems"]) == (4, 2, [])
