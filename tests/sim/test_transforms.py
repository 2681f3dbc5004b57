"""Transforms in the simulator: the same functions, the same outcomes, and faults that are drawn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from penstock import App
from penstock.apps import Application
from penstock.base.errors import NotFound, Unavailable
from penstock.base.rng import seeded_rng
from penstock.pipelines.transforms import TransformOutcome
from penstock.testing.sim.clock import SimClock
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import MachineSettings, SimMachine
from penstock.testing.sim.transforms import SimTransforms, TransformFaults

app = App()


@app.transform("odd", batch_records_max=10)
def odd(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["n"] % 2]


@app.transform("later", deadline_ms=20_000)
async def later(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    await asyncio.sleep(3)
    return records


APPLICATION = Application("test", transforms=app.transforms)


def ndjson(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)


def run(name: str, records: bytes, faults: TransformFaults, seed: int = 1) -> tuple[TransformOutcome, float]:
    """The outcome, and how long it took."""

    async def main(loop: VirtualLoop) -> tuple[TransformOutcome, float]:
        transforms = SimTransforms(APPLICATION, SimClock(loop), seeded_rng(seed), faults)
        began = loop.time()
        return await transforms.run(name, records), loop.time() - began

    return run_virtual(main)


def test_functions_run_in_line_on_virtual_time() -> None:
    outcome, _ = run("odd", ndjson({"n": 1}, {"n": 2}, {"x": 3}), TransformFaults())
    assert outcome.ndjson == ndjson({"n": 1})
    assert [(dead.record, dead.reason, dead.detail) for dead in outcome.dead] == [
        (b'{"x":3}', "error", "KeyError: 'n'")
    ]
    outcome, took_s = run("later", ndjson({"n": 1}), TransformFaults())
    assert outcome.records == 1 and 3 <= took_s < 4


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (TransformFaults(fail=1), "error"),
        (TransformFaults(crash=1), "crash"),
        (TransformFaults(overdue=1), "deadline"),
    ],
)
def test_a_fault_that_always_happens_leaves_no_record(faults: TransformFaults, reason: str) -> None:
    outcome, took_s = run("later", ndjson({"n": 1}, {"n": 2}), faults)
    assert (outcome.records, [dead.reason for dead in outcome.dead]) == (0, [reason, reason])
    assert faults.faults and (took_s == 20) == (reason == "deadline")


def test_faults_are_drawn_from_the_seed_and_every_record_is_accounted_for() -> None:
    records = [{"n": 2 * n + 1} for n in range(200)]
    outcomes = [
        run("odd", ndjson(*records), TransformFaults(fail=0.2, crash=0.1, overdue=0.1), seed)[0]
        for seed in (1, 1, 2)
    ]
    assert outcomes[0] == outcomes[1] != outcomes[2]
    for outcome in outcomes:
        assert {dead.reason for dead in outcome.dead} & {"error", "crash", "deadline"}
        there = [*outcome.ndjson.splitlines(), *(dead.record for dead in outcome.dead)]
        assert sorted(there) == sorted(ndjson(*records).splitlines())


def test_a_worker_that_cannot_be_started_is_unavailable_and_an_unknown_name_not_found() -> None:
    with pytest.raises(Unavailable):
        run("odd", ndjson({"n": 1}), TransformFaults(unavailable=1))
    with pytest.raises(NotFound, match="no transform 'even'; it has: later, odd"):
        run("even", b"", TransformFaults())


def test_each_executor_of_a_machine_has_the_applications_transforms() -> None:
    async def main(loop: VirtualLoop) -> list[list[str]]:
        async with SimMachine(loop, 1, MachineSettings(application=APPLICATION)) as machine:
            executors = [machine.executor(slot) for slot in (0, 1)]
            return [list(executor.node.transforms.names()) for executor in executors if executor is not None]

    assert run_virtual(main) == [["later", "odd"]] * 2
