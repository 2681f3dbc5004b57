"""Requests to objects while their server dies: an answer tells of what lasts, also when it came through another
executor."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from penstock.apps import Application, Request, Response
from penstock.objects import Context, DurableObject
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import ConnectionLost, MachineSettings, SimMachine

POSTS = 4


class Counter(DurableObject[Any]):
    public = True

    def __init__(self, ctx: Context, env: Any) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS posts (n INTEGER PRIMARY KEY, body)")

    async def fetch(self, request: Request) -> Response:
        sql = self.ctx.storage.sql
        if request.method == "POST":
            sql.exec("INSERT INTO posts (body) VALUES (?1)", request.body)
        return Response.json([[n, body.decode()] for n, body in sql.exec("SELECT n, body FROM posts")])


APPLICATION = Application("app.py", (Counter,))


async def posts_are_kept(loop: VirtualLoop, step: int, how: Callable[[SimMachine], None]) -> bool:
    """Post through both executors and crash at a step. False if there was no such step."""
    seen: list[list[list[Any]]] = []
    posted: list[str] = []

    async with SimMachine(loop, step, MachineSettings(application=APPLICATION)) as machine:
        machine.crash_at(step, lambda: how(machine))
        for n in range(POSTS):
            for slot in (0, 1):
                body = f"{n} through {slot}"
                try:
                    answer = await machine.request(slot, "POST", "/objects/Counter/a", body.encode())
                except ConnectionLost:
                    continue
                assert answer.status in (200, 503), answer
                if answer.status == 200:
                    seen.append(answer.json())
                    posted.append(body)
        happened = not machine.fault_pending
        machine.no_fault()
        await machine.ready()
        last = (await machine.request(0, "GET", "/objects/Counter/a")).json()
    assert {body for _, body in last} >= set(posted), "an acknowledged post was lost"
    for answer in seen:
        assert answer == last[: len(answer)], "an answer told of what did not last"
    return happened


@pytest.mark.parametrize("how", [lambda m: m.power_cut(), lambda m: m.kill_all(), lambda m: None])
def test_A3_an_answer_of_fetch_tells_of_what_lasts(how: Callable[[SimMachine], None]) -> None:
    for step in count(1):
        try:
            happened = run_virtual(lambda loop, step=step: posts_are_kept(loop, step, how))
        except BaseException as error:
            error.add_note(f"step {step}")
            raise
        if not happened:
            assert step > 20, "there are more steps than that"
            return
