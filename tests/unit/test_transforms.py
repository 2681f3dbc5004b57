"""The port to transforms."""

from __future__ import annotations

import asyncio

import pytest

from penstock.base.errors import Invalid, NotFound
from penstock.base.limits import Limits
from penstock.pipelines.transforms import NoTransforms


def test_a_server_without_an_application_has_no_transforms() -> None:
    transforms = NoTransforms()
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
