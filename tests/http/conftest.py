from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from penstock.base.limits import Limits

from .harness import Face


class MakeFace(Protocol):
    def __call__(self, limits: Limits = ...) -> Face: ...


@pytest.fixture
def make_face(tmp_path: Path) -> Iterator[MakeFace]:
    """`make_face(Limits(body_bytes_max=100))`: a running node, stopped at the end of the test."""
    with ExitStack() as stack:
        yield lambda limits=Limits(): stack.enter_context(Face(tmp_path, limits))  # noqa: B008


@pytest.fixture
def face(make_face: MakeFace) -> Face:
    return make_face()
