"""An object whose code computes without an end, or blocks: its executor says which it is, and is started again."""

from __future__ import annotations

import contextlib
import http.client
import sys
import threading
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from penstock.objects import DurableObject
from penstock.server.watchdog import Watchdog, place_of

from .conftest import Serve
from .harness import Server, ask

APP = """
    import asyncio, re, time
    from penstock import DurableObject, Request, Response

    class Busy(DurableObject):
        public = True

        async def fetch(self, request: Request) -> Response:
            match request.path:
                case "/spin":
                    self.spin()
                case "/sleep":
                    time.sleep(float(request.query["s"][0]))
                case "/match":
                    re.match("(a|a)*b", "a" * 60)
                case "/thread":
                    await asyncio.to_thread(time.sleep, 4)
            return Response.text("done")

        def spin(self):
            while True:
                pass
"""


def serve_busy(serve: Serve, folder: Path, *flags: str) -> Server:
    file = folder / "busy.py"
    file.write_text(dedent(APP))
    server = serve("--app", str(file), *flags, executors=1)
    server.wait_for("ready")
    return server


def get(server: Server, path: str) -> bytes | None:
    """The body of the answer, None if the executor died over it."""
    with contextlib.closing(server.connect()) as connection:
        try:
            return ask(connection, "GET", path, None, {}).body
        except (http.client.HTTPException, OSError):
            return None


@pytest.mark.parametrize("path", ["spin", "match"])
def test_code_that_never_ends_is_named_and_its_executor_started_again(
    serve: Serve, tmp_path: Path, path: str
) -> None:
    server = serve_busy(serve, tmp_path, "--blocked-seconds-max", "4")
    before = server.executors()
    assert get(server, f"/objects/Busy/a/{path}") is None
    ended = server.wait_for("executor_ended")
    if path == "spin":
        line = server.wait_for("executor_blocked", object="Busy('a')", method="fetch", process="executor-0")
        assert line["level"] == "error" and line["seconds"] >= 3 and "in spin" in line["stack"]
        assert ended["exit_code"] == 76
    else:  # nothing of Python's runs: the interpreter ends the process
        server.wait(lambda: any("busy.py" in line for line in server.stray))
        assert ended["exit_code"] == 1
    server.wait(lambda: server.executors() != before)
    assert get(server, "/objects/Busy/a/") == b"done"
    server.stop()


def test_code_that_blocks_for_a_while_is_counted_and_ends_nothing(serve: Serve, tmp_path: Path) -> None:
    server = serve_busy(serve, tmp_path)
    assert get(server, "/objects/Busy/a/sleep?s=4.5") == b"done"
    line = server.wait_for("executor_blocked", object="Busy('a')", method="fetch")
    assert "time.sleep" in line["stack"] and not line["ends"]
    [text] = [
        line
        for line in server.request("GET", "/metrics").body.decode().splitlines()
        if line.startswith("penstock_executor_blocked_seconds_total")
    ]
    assert 3 <= float(text.split()[-1]) <= 5
    server.stop()


def test_what_an_object_does_in_a_thread_holds_up_nobody(serve: Serve, tmp_path: Path) -> None:
    server = serve_busy(serve, tmp_path)
    answers: list[bytes | None] = []
    asking = threading.Thread(target=lambda: answers.append(get(server, "/objects/Busy/a/thread")))
    asking.start()
    while asking.is_alive():
        assert get(server, "/objects/Busy/b/") == b"done"
        asking.join(0.2)
    assert answers == [b"done"]
    assert not server.lines("executor_blocked")
    server.stop()


class Inner(DurableObject[None]):
    def __init__(self) -> None:
        pass

    def outer(self) -> Any:
        return self.helper()

    def helper(self) -> Any:
        return place_of(sys._getframe())


def test_the_place_is_the_method_that_was_called_also_where_the_object_is_half_made() -> None:
    place = Inner().outer()
    assert (place.object, place.method) == ("Inner", "outer")
    assert place.stack.rstrip().endswith("return place_of(sys._getframe())")


def test_a_place_outside_of_all_objects_has_a_stack_alone() -> None:
    place = place_of(sys._getframe())
    assert (place.object, place.method) == (None, None) and "test_blocked" in place.stack


def test_a_watchdog_is_there_for_a_loop() -> None:
    with pytest.raises(RuntimeError):
        Watchdog(0, lambda: None)
