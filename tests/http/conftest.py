from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from penstock.apps import NO_APPLICATION, Application
from penstock.base.limits import Limits

from .harness import Face


class MakeFace(Protocol):
    def __call__(self, limits: Limits = ..., application: Application = ...) -> Face: ...


@pytest.fixture
def make_face(tmp_path: Path) -> Iterator[MakeFace]:
    """`make_face(Limits(body_bytes_max=100))`: a running node, stopped at the end of the test."""
    with ExitStack() as stack:

        def make(limits: Limits = Limits(), application: Application = NO_APPLICATION) -> Face:  # noqa: B008
            return stack.enter_context(Face(tmp_path, limits, application))

        yield make


@pytest.fixture
def face(make_face: MakeFace) -> Face:
    return make_face()
