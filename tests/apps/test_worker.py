"""Transforms in a worker: a real process, which fails in every way that a function can make it fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar

import pytest
import uvloop
from structlog.testing import capture_logs

from penstock.apps import Application
from penstock.apps.loading import load
from penstock.apps.transform_run import TransformOutcome
from penstock.apps.transforms import WorkerTransforms
from penstock.base.clock import SystemClock
from penstock.base.errors import NotFound, PenstockError, Unavailable
from penstock.base.limits import WORKER_LINES_MAX
from penstock.pipelines.transforms import Transforms

T = TypeVar("T")
#: Nothing here takes longer; whatever does is stuck.
DEADLINE_S = 30

APP = """
    import asyncio, contextvars, ctypes, os, re, signal, sys, time
    from datetime import datetime
    import msgspec
    from penstock import App

    app = App()

    @app.transform("double")
    def double(records):
        return [record | {"again": again} for record in records for again in (0, 1)]

    @app.transform("drop")
    async def drop(records):
        await asyncio.sleep(0.001)
        return [record for record in records if record["n"] % 2]

    @app.transform("pid")
    def pid(records):
        return [{"pid": os.getpid()}]

    def price(record):
        return record | {"price": float(record["price"])}

    @app.transform("price")
    def prices(records):
        return [price(record) for record in records]

    @app.transform("price-later")
    async def prices_later(records):
        return [price(record) for record in records]

    @app.transform("leave")
    def leave(records):
        sys.exit("bye")

    @app.transform("kill")
    def kill(records):
        for record in records:
            match record.get("how"):
                case "exit": os._exit(7)
                case "segfault": ctypes.string_at(0)
                case "kill": os.kill(os.getpid(), signal.SIGKILL)
        return records

    @app.transform("slow", deadline_ms=300, batch_records_max=2)
    def slow(records):
        if any("slow" in record for record in records):
            time.sleep(60)
        return records

    @app.transform("slow-later", deadline_ms=300)
    async def slow_later(records):
        await asyncio.sleep(60)

    @app.transform("quick", deadline_ms=300)
    def quick(records):
        time.sleep(0.1)
        return records

    @app.transform("hold", deadline_ms=300)
    def hold(records):
        re.match("(a*)*b", "a" * 64)  # keeps the GIL for ages

    @app.transform("stop", deadline_ms=100)
    def stop(records):
        os.kill(os.getpid(), signal.SIGSTOP)

    @app.transform("give")
    def give(records):
        for record in records:
            match record["give"]:
                case "none": return None
                case "tuple": return ()
                case "numbers": return [1]
                case "object": return [{"o": object()}]
                case "surrogate": return [{"s": chr(0xd800)}]
                case "raw": return [{"r": msgspec.Raw(b'[1,\\n2]')}]
                case "much": return [{"much": "x" * 1_000_000} for _ in range(17)]
                case "time": return [{"t": datetime(2024, 1, 2, 3, 4, 5), "nan": float("nan"), "big": 2 ** 70}]
        return records

    @app.transform("raise")
    def raise_(records):
        raise ValueError(chr(0xd800) + "x" * 2_000)

    @app.transform("talk")
    def talk(records):
        print("to stdout")
        print("to stderr", file=sys.stderr)
        os.write(1, b"to descriptor 1\\n")
        print("y" * 5_000)
        assert sys.stdin.read() == ""
        for n in range(200):
            print("line", n)
        return records

    @app.transform("intrude")
    def intrude(records):
        for fd in range(3, 50):
            try:
                os.write(fd, records[0]["text"].encode("latin-1"))
            except OSError:
                pass
        return records

    @app.transform("memory")
    def memory(records):
        return [{"size": len(bytearray(record["bytes"]))} for record in records]

    @app.transform("fork", deadline_ms=5_000)
    def fork(records):
        if os.fork() == 0:
            time.sleep(4)  # holds what the worker had open
            os._exit(0)
        os._exit(3)
"""


class _Done(Exception):
    pass


@contextlib.asynccontextmanager
async def hosting(application: Application, memory_bytes_max: int) -> AsyncIterator[WorkerTransforms]:
    try:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            yield WorkerTransforms(application, tasks, SystemClock(), memory_bytes_max=memory_bytes_max)
            raise _Done
    except* _Done:
        pass


def with_worker(
    application: Application, work: Callable[[WorkerTransforms], Awaitable[T]], memory_bytes_max: int = 0
) -> T:
    """Give `work` the transforms, on an event loop like an executor's. The worker has ended when it has."""

    async def run() -> T:
        failure: PenstockError | None = None
        async with hosting(application, memory_bytes_max) as transforms:
            try:
                return await work(transforms)
            except PenstockError as error:
                failure = error
        assert failure is not None
        raise failure  # and not the group of the tasks

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


@pytest.fixture
def load_app(tmp_path: Path) -> Iterator[Callable[[str], Application]]:
    path, modules = list(sys.path), set(sys.modules)

    def load_app(text: str) -> Application:
        file = tmp_path / "worker_app.py"
        file.write_text(dedent(text))
        return load(str(file), ())

    yield load_app
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        if module.startswith("worker_app"):
            del sys.modules[module]


@pytest.fixture
def application(load_app: Callable[[str], Application]) -> Application:
    return load_app(APP)


def ndjson(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def run(application: Application, name: str, *records: dict[str, Any], **more: int) -> TransformOutcome:
    return with_worker(application, lambda transforms: transforms.run(name, ndjson(*records)), **more)


def read(outcome: TransformOutcome) -> list[Any]:
    records = [json.loads(line) for line in outcome.ndjson.splitlines()]
    assert len(records) == outcome.records
    return records


def dead(outcome: TransformOutcome) -> list[tuple[Any, str]]:
    return [(json.loads(record.record), record.reason) for record in outcome.dead]


def wait_for_end(pid: int) -> None:
    """Poll until a process that is not ours has ended."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].startswith("Z"):
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} goes on")


# -- what functions give ------------------------------------------------------------------------------------


def test_a_function_may_give_more_fewer_or_other_records(application: Application) -> None:
    assert read(run(application, "double", {"n": 1})) == [{"n": 1, "again": 0}, {"n": 1, "again": 1}]


def test_an_async_function_is_awaited(application: Application) -> None:
    assert read(run(application, "drop", {"n": 1}, {"n": 2}, {"n": 3})) == [{"n": 1}, {"n": 3}]


def test_one_worker_serves_all_calls_and_ends_with_its_owner(application: Application) -> None:
    async def three(transforms: WorkerTransforms) -> list[int]:
        outcomes = [await transforms.run("pid", b"{}"), *await asyncio.gather(*[transforms.run("pid", b"{}")] * 1)]
        return [read(outcome)[0]["pid"] for outcome in outcomes]

    first, second = with_worker(application, three)
    assert first == second != os.getpid()
    wait_for_end(first)


def test_records_of_many_runs_at_once_stay_apart(application: Application) -> None:
    async def many(transforms: WorkerTransforms) -> list[TransformOutcome]:
        return await asyncio.gather(*(transforms.run("drop", ndjson({"n": 2 * n + 1})) for n in range(20)))

    assert [read(outcome) for outcome in with_worker(application, many)] == [[{"n": 2 * n + 1}] for n in range(20)]


def test_numbers_of_any_size_go_through_and_what_json_lacks_is_written_as_it_can(
    application: Application,
) -> None:
    (record,) = read(run(application, "give", {"give": "time"}))
    assert record == {"t": "2024-01-02T03:04:05", "nan": None, "big": 2**70}
    big = {"give": "", "big": 123456789012345678901234567890, "text": "ü\u2028"}
    assert read(run(application, "give", big)) == [big]


@pytest.mark.parametrize(
    ("give", "reason", "words"),
    [
        (
            "none",
            "invalid_result",
            "returned None; it must return a list of records. To drop all records, return",
        ),
        ("tuple", "invalid_result", "returned a tuple; it must return a list of records."),
        ("numbers", "invalid_result", "Item 0 of the returned list is a int; each must be a dict."),
        ("object", "invalid_result", "cannot be written as JSON: TypeError: Encoding objects of type object"),
        ("surrogate", "invalid_result", "cannot be written as JSON: UnicodeEncodeError"),
        ("raw", "invalid_result", "raw JSON of more than one line"),
        ("much", "too_large", "bytes of JSON; 16,777,216 may be returned."),
    ],
)
def test_a_result_that_cannot_be_taken_kills_only_the_records_it_was_made_of(
    application: Application, give: str, reason: str, words: str
) -> None:
    outcome = run(application, "give", {"give": "", "n": 1}, {"give": give}, {"give": "", "n": 2})
    assert [record["n"] for record in read(outcome)] == [1, 2]
    assert dead(outcome) == [({"give": give}, reason)]
    assert words in outcome.dead[0].detail


# -- functions that fail ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["price", "price-later"])
def test_what_a_function_raises_is_said_with_the_users_line(application: Application, name: str) -> None:
    outcome = run(application, name, {"price": "1"}, {"price": "dear"}, {"price": 2}, {})
    assert [record["price"] for record in read(outcome)] == [1.0, 2.0]
    assert dead(outcome) == [({"price": "dear"}, "error"), ({}, "error")]
    line = 1 + next(n for n, line in enumerate(dedent(APP).splitlines()) if "float(record" in line)
    assert [record.detail for record in outcome.dead] == [
        f"ValueError: could not convert string to float: 'dear' (worker_app.py:{line} in price)",
        f"KeyError: 'price' (worker_app.py:{line} in price)",
    ]


def test_the_dead_are_counted_in_the_log_by_reason(application: Application) -> None:
    with capture_logs() as log:
        run(application, "price", {"price": "1"}, {"price": "dear"}, {})
    (line,) = [line for line in log if line["event"] == "transform_rejected"]
    assert (line["transform"], line["records"], line["reasons"]) == ("price", 2, {"error": 2})


def test_a_function_that_exits_is_one_that_raises(application: Application) -> None:
    outcome = run(application, "leave", {"n": 1})
    assert dead(outcome) == [({"n": 1}, "error")]
    assert outcome.dead[0].detail.startswith("SystemExit: bye (worker_app.py:")


def test_a_detail_is_bounded_and_keeps_the_place(application: Application) -> None:
    (record,) = run(application, "raise", {"n": 1}).dead
    assert len(record.detail) == 1_000
    assert record.detail.startswith("ValueError: ?xxx") and record.detail.endswith(" in raise_)")


@pytest.mark.parametrize(
    ("how", "words"),
    [("exit", "it exited with code 7"), ("segfault", "it was ended by SIGSEGV"), ("kill", "ended by SIGKILL")],
)
def test_a_record_that_kills_the_worker_is_dead_and_the_others_go_through(
    application: Application, how: str, words: str
) -> None:
    with capture_logs() as log:
        outcome = run(application, "kill", {"n": 1}, {"how": how}, {"n": 2})
    assert read(outcome) == [{"n": 1}, {"n": 2}]
    assert dead(outcome) == [({"how": how}, "crash")]
    assert words in outcome.dead[0].detail
    assert next(line["transform"] for line in log if line["event"] == "transform_crashed") == "kill"
    if how == "segfault":
        assert any(line.get("line") == "Fatal Python error: Segmentation fault" for line in log)


def test_a_list_over_its_deadline_is_dead_and_the_log_says_where_it_was(application: Application) -> None:
    with capture_logs() as log:
        outcome = run(application, "slow", {"n": 1}, {"slow": 1}, {"n": 2})
    assert read(outcome) == [{"n": 2}]
    assert dead(outcome) == [({"n": 1}, "deadline"), ({"slow": 1}, "deadline")]
    assert outcome.dead[0].detail == "The transform took longer than its deadline of 300 ms."
    assert any("worker_app.py" in line.get("line", "") and "in slow" in line["line"] for line in log)


@pytest.mark.parametrize("name", ["slow-later", "hold"])
def test_whatever_a_function_waits_in_the_deadline_ends_it(application: Application, name: str) -> None:
    assert dead(run(application, name, {"n": 1})) == [({"n": 1}, "deadline")]


def test_a_worker_that_cannot_end_itself_is_killed(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.apps.worker_process.WORKER_OVERDUE_MS_MAX", 100)
    assert dead(run(application, "stop", {"n": 1})) == [({"n": 1}, "deadline")]


def test_C4_an_executor_that_was_paused_takes_the_result_that_came_meanwhile(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.apps.worker_process.WORKER_OVERDUE_MS_MAX", 100)

    async def paused(transforms: WorkerTransforms) -> TransformOutcome:
        await transforms.run("pid", b"{}")
        async with asyncio.TaskGroup() as tasks:
            run = tasks.create_task(transforms.run("quick", ndjson({"n": 1})))
            await asyncio.sleep(0.02)
            time.sleep(0.8)  # noqa: ASYNC251 - the pause: of the loop, well beyond the deadline
        return run.result()

    outcome = with_worker(application, paused)
    assert (read(outcome), outcome.dead) == ([{"n": 1}], [])


def test_a_worker_is_missed_even_while_its_children_hold_the_pipe(application: Application) -> None:
    began = time.monotonic()
    outcome = run(application, "fork", {"n": 1})
    assert dead(outcome) == [({"n": 1}, "crash")]
    assert "exited with code 3" in outcome.dead[0].detail
    assert time.monotonic() - began < DEADLINE_S


@pytest.mark.parametrize("text", ["\0\0\0\1x", "xxxxxxxx", "x"])
def test_a_function_that_writes_into_the_workers_own_pipe_harms_its_records_only(
    application: Application, text: str
) -> None:
    async def intruded(transforms: WorkerTransforms) -> list[TransformOutcome]:
        return [await transforms.run("intrude", ndjson({"text": text})), await transforms.run("pid", b"{}")]

    intruded_on, after = with_worker(application, intruded)
    assert dead(intruded_on) == [({"text": text}, "crash")]
    assert after.records == 1


def test_memory_above_the_limit_is_an_error_of_the_records_that_take_it(application: Application) -> None:
    outcome = run(application, "memory", {"bytes": 1}, {"bytes": 8 << 30}, memory_bytes_max=2 << 30)
    assert read(outcome) == [{"size": 1}]
    assert dead(outcome) == [({"bytes": 8 << 30}, "error")]
    assert outcome.dead[0].detail.startswith("MemoryError (worker_app.py:")


def test_what_it_prints_is_in_the_log_bounded(application: Application) -> None:
    with capture_logs() as log:
        outcome = run(application, "talk", {"n": 1})
    assert read(outcome) == [{"n": 1}]
    lines = [line["line"] for line in log if line["event"] == "worker_output"]
    assert lines[:3] == ["to stdout", "to stderr", "to descriptor 1"]
    assert len(lines[3]) == 1_000 and lines[4] == "line 0"
    assert len(lines) == WORKER_LINES_MAX
    assert sum(line["lines"] for line in log if line["event"] == "worker_output_dropped") == 204 - WORKER_LINES_MAX


# -- the worker's life --------------------------------------------------------------------------------------


def test_a_cancelled_run_takes_its_worker_with_it_and_the_next_gets_its_answer(
    application: Application,
) -> None:
    async def cancelled(transforms: WorkerTransforms) -> tuple[TransformOutcome, TransformOutcome]:
        before = await transforms.run("pid", b"{}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await transforms.run("slow", ndjson({"slow": 1}))
        return before, await transforms.run("pid", b"{}")

    before, after = with_worker(application, cancelled)
    assert read(before) != read(after)
    wait_for_end(read(before)[0]["pid"])


def test_a_worker_that_was_killed_between_calls_is_started_again(application: Application) -> None:
    async def killed(transforms: WorkerTransforms) -> list[TransformOutcome]:
        before = await transforms.run("pid", b"{}")
        os.kill(read(before)[0]["pid"], signal.SIGKILL)
        return [before, await transforms.run("pid", b"{}")]

    before, after = with_worker(application, killed)
    assert read(before) != read(after)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_whole_group_do_not_end_it(application: Application, number: signal.Signals) -> None:
    async def signalled(transforms: WorkerTransforms) -> list[TransformOutcome]:
        before = await transforms.run("pid", b"{}")
        os.kill(read(before)[0]["pid"], number)
        return [before, await transforms.run("pid", b"{}")]

    before, after = with_worker(application, signalled)
    assert read(before) == read(after)


def test_it_runs_the_code_that_was_loaded_and_not_what_was_written_since(
    load_app: Callable[[str], Application], tmp_path: Path
) -> None:
    text = "from penstock import App\napp = App()\n@app.transform('name')\ndef name(r): return [{'is': 'VALUE'}]"
    application = load_app(text.replace("VALUE", "old"))
    (tmp_path / "worker_app.py").write_text(text.replace("VALUE", "new"))
    assert read(run(application, "name", {})) == [{"is": "old"}]


def test_a_module_of_a_package_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "worker_app_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("answer = 42")
    (package / "main.py").write_text(
        "from penstock import App\nfrom .helper import answer\napp = App()\n"
        "@app.transform('ask')\ndef ask(r): return [{'answer': answer, 'name': __name__}]"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    application = load("worker_app_package.main", ())
    monkeypatch.chdir("/")
    assert read(run(application, "ask", {})) == [{"answer": 42, "name": "worker_app_package.main"}]
    for module in [name for name in sys.modules if name.startswith("worker_app_package")]:
        del sys.modules[module]


def test_an_application_that_cannot_be_imported_again_is_said_with_the_users_lines(
    load_app: Callable[[str], Application], tmp_path: Path
) -> None:
    (tmp_path / "worker_app_helper.py").write_text("")
    application = load_app(
        "import worker_app_helper\nfrom penstock import App\napp = App()\n@app.transform('a')\ndef a(r): return r"
    )
    (tmp_path / "worker_app_helper.py").write_text("1 / 0")
    with pytest.raises(Unavailable) as refused:
        run(application, "a", {})
    message = refused.value.message
    assert message.startswith("The worker for transforms cannot be started. ")
    assert 'worker_app.py", line 1' in message and 'worker_app_helper.py", line 1' in message
    assert message.endswith("ZeroDivisionError: division by zero")


def test_a_worker_that_dies_in_its_start_is_said(load_app: Callable[[str], Application]) -> None:
    application = load_app(
        "import os, sys\nfrom penstock import App\napp = App()\n"
        "if 'penstock.apps.worker' in sys.orig_argv: os._exit(9)\n@app.transform('a')\ndef a(r): return r"
    )
    with pytest.raises(Unavailable, match="The worker for transforms did not start: it exited with code 9; see"):
        run(application, "a", {})


def test_without_a_python_to_start_it_is_unavailable(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(Unavailable, match="cannot be started: No such file or directory"):
        run(application, "pid", {})


def test_an_unknown_transform_is_not_found(application: Application) -> None:
    async def unknown(transforms: Transforms) -> str:
        with pytest.raises(NotFound, match="no transform 'clean'; it has: double, drop, fork"):
            await transforms.run("clean", b"{}")
        with pytest.raises(NotFound):
            transforms.version("clean")
        assert "price-later" in transforms.names()
        return transforms.version("pid")

    # Structural typing holds the port: the annotation above is checked where the executor passes it on.
    assert with_worker(application, unknown) == application.version


def test_A1_a_worker_ends_when_its_executor_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "worker_app_a1.py"
    for stuck in ('import re; re.match("(a*)*b", "a" * 64)', "import time; time.sleep(600)"):
        file.write_text(
            "import os\nfrom penstock import App\napp = App()\n"
            "@app.transform('pid')\ndef pid(r): return [{'pid': os.getpid()}]\n"
            "@app.transform('stuck', deadline_ms=2_000)\n"
            f"def stuck(r):\n    print('stuck')\n    {stuck}\n"
        )
        host = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker_host.py")), str(file)], stdout=subprocess.PIPE
        )
        try:
            assert host.stdout is not None
            worker = int(host.stdout.readline())
            assert host.stdout.readline() == b"started\n"
            os.kill(worker, 0)
        finally:
            host.kill()
            host.communicate(timeout=DEADLINE_S)
        wait_for_end(worker)
