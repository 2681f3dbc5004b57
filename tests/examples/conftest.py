"""The examples on a real server: two executors, real sockets, real files."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _harness() -> Any:
    spec = importlib.util.spec_from_file_location("server_harness", ROOT / "tests/server/harness.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["server_harness"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Example:
    """A running example. `call` sends a request with the account's token to one of its objects."""

    def __init__(self, server: Any) -> None:
        self.server = server

    def call(self, method: str, object: str, body: object = None, token: bool = True) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.server.credentials['token']}"} if token else {}
        answer = self.server.request(method, f"/objects/{object}", content, **headers)
        return answer.status, answer.json

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until it holds; the server says nothing when it does."""
        ends_at = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < ends_at, self.server.tail
            time.sleep(0.02)


@pytest.fixture
def run_example(tmp_path: Path) -> Iterator[Callable[[str], Example]]:
    """`run_example("reminders")`; again for the next start on the same data."""
    harness = _harness()
    with ExitStack() as stack:

        def run(name: str) -> Example:
            server = harness.Server(tmp_path / "data", "--app", str(ROOT / f"examples/{name}.py"))
            stack.callback(server.clean_up)
            return Example(server)

        yield run
