from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from .harness import Server


class Serve(Protocol):
    def __call__(self, *flags: str, **more: object) -> Server: ...


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(executors=3)` starts a server on the test's data directory; whatever it started ends with the test."""
    with ExitStack() as stack:

        def start(*flags: str, data: Path = tmp_path / "data", **more: object) -> Server:
            server = Server(data, *flags, **more)  # type: ignore[arg-type]
            stack.callback(server.clean_up)
            return server

        yield start
