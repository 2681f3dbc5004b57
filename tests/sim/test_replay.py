"""Dead letters sent again while executors die at every kind of moment: each record once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec import json

from penstock.base.rng import seeded_rng
from penstock.pipelines import replay
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import ConnectionLost, MachineSettings, SimMachine

BUCKET = "records"
RECORDS = 40
STEPS_MAX = 500


def body(**destination: Any) -> dict[str, Any]:
    shape = {"type": "r2", "format": "json", "path": {"bucket": BUCKET}, "compression": {"type": "none"}}
    return {"name": "p", "destination": shape | {"batch": {"max_duration_s": 0.25, "max_rows": 10}} | destination}


def numbers(machine: SimMachine, *, dead: bool) -> Counter[int]:
    found: Counter[int] = Counter()
    for key, content in machine.bucket(BUCKET).items():
        if key.startswith("_dead/") == dead:
            records = (json.decode(line) for line in content.splitlines())
            found.update(record["record"]["n"] if dead else record["n"] for record in records)
    return found


async def until_answered(machine: SimMachine, method: str, path: str, content: object = None) -> Any:
    while True:
        try:
            answer = await machine.control(0, method, path, content)
        except ConnectionLost:
            await machine.ready()
            continue
        if answer.status == 200:
            return answer.json()["result"]
        assert answer.status in (503, 507), answer
        await machine.clock.sleep_ms(100)


async def settled(machine: SimMachine, count: int, *, dead: bool) -> None:
    async with asyncio.timeout(300):
        while numbers(machine, dead=dead).total() < count:
            await machine.clock.sleep_ms(100)


async def replayed_through_crashes(loop: VirtualLoop, seed: int, crashes: bool) -> int:
    """Gives how often the machine crashed."""
    rng = seeded_rng(f"{seed}/replay")
    async with SimMachine(loop, seed, MachineSettings(executors=2)) as machine:
        id = (await until_answered(machine, "POST", "/pipelines", body(partition_time={"field": "at"})))["id"]
        for start in range(0, RECORDS, 10):
            content = json.encode([{"n": n} for n in range(start, start + 10)])
            assert (await machine.request(0, "POST", f"/ingest/{id}", content)).status == 200
        await settled(machine, RECORDS, dead=True)
        await until_answered(machine, "PUT", "/pipelines/p", body())
        crashed, cursor = 0, None
        for step in range(STEPS_MAX):
            if crashes and step < STEPS_MAX // 2 and not machine.fault_pending:
                how = machine.power_cut if rng.random() < 0.5 else lambda: None
                machine.crash_at(rng.randint(1, 60), how)
                crashed += 1
            content = {"since": "1970-01-01T00:00:00Z", "limit": 1} | ({"cursor": cursor} if cursor else {})
            try:
                answer = await machine.control(rng.randrange(2), "POST", "/pipelines/p/replay", content)
            except ConnectionLost:
                await machine.ready()
                continue
            if answer.status == 200:
                result = answer.json()["result"]
                assert not result["skipped"], result
                cursor = result["cursor"]
                if cursor is None:
                    break
            else:
                assert answer.status == 503, answer
                await machine.clock.sleep_ms(50)
        else:
            pytest.fail("it never came to an end")
        machine.no_fault()
        await machine.ready()
        await settled(machine, RECORDS, dead=False)
        machine.power_cut()
        await machine.ready()
        await machine.clock.sleep_ms(5_000)
        assert numbers(machine, dead=False) == Counter(range(RECORDS))
        assert numbers(machine, dead=True) == Counter(range(RECORDS))
        report = await until_answered(machine, "GET", "/pipelines/p/verify?deep=true")
        assert report["problems"] == []
        return crashed


@pytest.mark.parametrize("seed", range(12))
def test_each_dead_letter_is_sent_again_once_whenever_executors_die(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "REPLAY_PIECE_BYTES", 20)  # a file is several pieces
    assert run_virtual(lambda loop: replayed_through_crashes(loop, seed, True)) > 1


def test_without_a_crash_the_same_happens() -> None:
    assert run_virtual(lambda loop: replayed_through_crashes(loop, 1, False)) == 0
