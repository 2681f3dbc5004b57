from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from .processors import FOREIGN_SHARE_MAX, Processors, stretched


def test_a_limit_holds_as_it_is_on_a_quiet_machine_and_is_stretched_by_what_others_take() -> None:
    assert stretched(2.0, 0.0) == 2.0
    assert stretched(2.0, 0.5) == pytest.approx(4.0)
    assert stretched(2.0, 1.0) == pytest.approx(2.0 / (1 - FOREIGN_SHARE_MAX))


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")
def test_what_others_compute_counts_and_what_we_compute_does_not() -> None:
    # Whatever else runs on the machine is in both measurements of one span; the difference is ours.
    with_us, without_us = Processors([]), Processors([os.getpid()])
    ends_at, started = time.process_time() + 0.5, time.monotonic()
    while time.process_time() < ends_at:
        pass
    difference = with_us.foreign_share([]) - without_us.foreign_share([os.getpid()])
    expected = 0.5 / (time.monotonic() - started) / (os.cpu_count() or 1)
    assert difference == pytest.approx(expected, rel=0.3)
