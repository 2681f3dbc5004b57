from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.cli.client import Client

from .conftest import FakeServer, Run

LINES = b'{"record":{"n":1.50}}\n\n{"record":{"a":"\xc3\xa9}"}}\n{"dropped":3}\n{"record":[1]}\n'


@pytest.fixture(autouse=True)
def _there(server: FakeServer, write_credentials: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(write_credentials(server.url).parent))


def test_records_are_printed_as_they_came_and_what_is_missing_is_said_beside(run: Run, server: FakeServer) -> None:
    server.will_answer((200, LINES))
    outcome = run("pipelines", "tail", "clicks", "--sample", "0.5")
    assert (outcome.code, outcome.out) == (0, '{"n":1.50}\n{"a":"é}"}\n[1]\n')
    assert "3 records were left out" in outcome.err
    assert server.requests[0].path.endswith("/pipelines/clicks/tail?sample=0.5")


def test_json_prints_the_lines_of_the_api(run: Run, server: FakeServer) -> None:
    server.will_answer((200, LINES))
    assert run("pipelines", "tail", "clicks", "--json").out.encode() == LINES.replace(b"\n\n", b"\n")


def test_a_limit_ends_it(run: Run, server: FakeServer) -> None:
    server.will_answer((200, LINES))
    outcome = run("pipelines", "tail", "clicks", "--limit", "2")
    assert (outcome.code, outcome.out) == (0, '{"n":1.50}\n{"a":"é}"}\n')


def test_ctrl_c_ends_it_well(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> object:
        yield b'{"record":{}}\n'
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "tail_pipeline", interrupted)
    outcome = run("pipelines", "tail", "clicks")
    assert (outcome.code, outcome.out) == (0, "{}\n")


def test_an_error_is_said(run: Run, server: FakeServer) -> None:
    server.will_answer((404, {"success": False, "errors": [{"code": 1000, "message": "There is no pipeline."}]}))
    outcome = run("pipelines", "tail", "clicks")
    assert outcome.code == 1 and "There is no pipeline. [code: 1000]" in outcome.err


@pytest.mark.parametrize("sample", ["0", "1.5"])
def test_a_sample_that_is_no_share_is_refused(run: Run, sample: str) -> None:
    assert run("pipelines", "tail", "clicks", "--sample", sample).code == 2
