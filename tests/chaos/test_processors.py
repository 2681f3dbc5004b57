from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .processors import Processors, waited_for_others_s


def test_only_the_part_of_waiting_that_others_cause_counts_and_all_that_the_host_takes() -> None:
    assert waited_for_others_s([0.2, 0.6], ran_s=1.0, busy_s=1.0, stolen_s=0.0, processors=2) == 0
    assert waited_for_others_s([0.2, 0.6], ran_s=0.5, busy_s=2.0, stolen_s=0.0, processors=2) == pytest.approx(0.6)
    assert waited_for_others_s([], ran_s=1.0, busy_s=1.0, stolen_s=0.4, processors=2) == pytest.approx(0.2)
    assert waited_for_others_s([0.5], ran_s=0.1, busy_s=0.0, stolen_s=0.0, processors=2) == 0


@pytest.fixture
def other_on_our_processor() -> Iterator[None]:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("only Linux tells")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    other = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        with other.stdout:
            other.stdout.readline()
            yield
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("other_on_our_processor")
def test_who_computes_waits_for_others_and_who_sleeps_does_not() -> None:
    supervisor = os.getppid()  # some process that does nothing
    while_sleeping = Processors([supervisor])
    time.sleep(0.5)
    assert while_sleeping.waited_for_others_s([supervisor]) < 0.1
    while_computing = Processors([supervisor])
    ends_at = time.process_time() + 0.3
    while time.process_time() < ends_at:
        pass
    assert while_computing.waited_for_others_s([supervisor]) > 0.05
