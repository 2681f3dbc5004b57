"""Random programs over objects, under faults, find every promise kept; and notice when one is broken."""

from __future__ import annotations

import time
from typing import Any

import pytest

from penstock.base.errors import PenstockError
from penstock.objects import Runtime, activation, object_alarm
from penstock.objects.committer import Committer
from penstock.objects.remote import Method
from penstock.testing.sim.programs import run_programs

#: A dead executor cannot start a task, and what it would have run is left over.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")

SEEDS = 120


def test_objects_keep_their_promises_for_many_seeds(request: pytest.FixtureRequest) -> None:
    """`--seed` and `--seeds` as in `test_scenario.py`."""
    one = request.config.getoption("--seed", None)
    seeds = range(one, one + 1) if one is not None else range(request.config.getoption("--seeds", None) or SEEDS)
    began = time.perf_counter()
    replies = errors = 0
    for seed in seeds:
        outcome = run_programs(seed)
        assert not outcome.problems, "\n".join([f"seed {seed}", *outcome.problems[:10], *outcome.story])
        replies += outcome.replies
        errors += outcome.errors
    print(f"{len(seeds)} seeds, {replies} replies, {errors} errors, {time.perf_counter() - began:.1f} s")
    if len(seeds) >= SEEDS:
        assert replies > 20 * len(seeds) and errors > len(seeds)


def test_the_same_seed_gives_the_same_run() -> None:
    for seed in (1, 5, 9):
        assert run_programs(seed) == run_programs(seed)


def find_problem(text: str) -> None:
    """Some seed must notice."""
    for seed in range(60):
        try:
            problems = run_programs(seed).problems
        except Exception as error:
            problems = [repr(error)]
        if any(text in problem for problem in problems):
            return
    raise AssertionError("nobody has noticed")


def test_a_gate_that_lets_everything_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def let_out(self: Committer) -> None:
        if self.broken is not None:
            raise self.broken

    monkeypatch.setattr(Committer, "hold", let_out)
    find_problem("not there")


def test_a_call_that_leaves_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(self: Committer) -> None:
        pass

    monkeypatch.setattr(Committer, "wait_turn", at_once)
    find_problem("not there")


def test_a_result_that_is_copied_when_the_gate_has_opened_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = activation.Activation.call

    async def late(self: Any, method: str, args: Any, finish: Any, **more: Any) -> Any:
        return finish(await honest(self, method, args, lambda result: result, **more))

    monkeypatch.setattr(activation.Activation, "call", late)
    find_problem("came after")


def test_arguments_that_are_copied_when_the_gate_has_opened_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Method.copy_args
    monkeypatch.setattr(Method, "copy_args", lambda self, args: args)
    call = Runtime.call_here

    async def late(self: Any, id: Any, method: str, args: Any, finish: Any) -> Any:
        known = self._class(id.namespace).methods[method]
        return await call(self, id, method, honest(known, args), finish)

    monkeypatch.setattr(Runtime, "call_here", late)
    find_problem("came after")


def test_an_alarm_that_is_not_indexed_before_its_commit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_alarm, "must_index_before_commit", lambda alarm, indexed_ms: False)
    find_problem("lost the alarm")


def test_an_abort_that_commits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Committer.break_with

    def commits_first(self: Committer, error: PenstockError) -> None:
        if self.broken is None and self._commit_due and self.database.in_transaction:
            self._commit()
        honest(self, error)

    monkeypatch.setattr(Committer, "break_with", commits_first)
    find_problem("aborted")
