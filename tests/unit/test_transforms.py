"""The port to transforms, and the line of a record that one did not take."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import pytest

from penstock.base.errors import Invalid, NotFound
from penstock.base.limits import Limits
from penstock.pipelines.environment import PipelineEnv, PipelineStatistics
from penstock.pipelines.transforms import dead_letter_line


@dataclass(frozen=True)
class Dead:
    record: bytes
    reason: str = "error"
    detail: str = 'ValueError: "bad"\n(app.py:3 in clean)'


def test_a_dead_letter_is_one_line_with_the_record_as_it_came() -> None:
    record = b'{"price": 1.10,"big":123456789012345678901,"text":"\\n"}'
    line = dead_letter_line(Dead(record), transform="clean", version="0123456789ab")
    assert line.count(b"\n") == 1 and line.endswith(b"\n") and record in line
    assert json.loads(line) == {
        "reason": "error",
        "detail": 'ValueError: "bad"\n(app.py:3 in clean)',
        "transform": "clean",
        "version": "0123456789ab",
        "record": json.loads(record),
    }


def test_a_server_without_an_application_has_no_transforms() -> None:
    transforms = PipelineEnv(Limits(), 1, PipelineStatistics()).transforms
    assert list(transforms.names()) == []
    with pytest.raises(NotFound, match="this server runs no application"):
        transforms.version("clean")
    with pytest.raises(NotFound, match="no transform 'clean'"):
        asyncio.run(transforms.run("clean", b"{}\n"))


@pytest.mark.parametrize("bytes_max", [1, 512 * 1024 * 1024 - 1])
def test_a_memory_limit_in_which_no_worker_fits_is_refused(bytes_max: int) -> None:
    assert Limits(transform_memory_bytes_max=0).transform_memory_bytes_max == 0
    with pytest.raises(Invalid, match=r"must be 0 \(no limit\) or 536870912 at least"):
        Limits(transform_memory_bytes_max=bytes_max)
