from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import structlog

from penstock.base.limits import Limits
from penstock.cli.sizes import format_bytes, format_measured, parse_bytes
from penstock.server import logs


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings that a server was started with; the server itself is not."""
    started: list[Any] = []

    def serve(settings: Any) -> int:
        started.append(settings)
        return 7

    settings, supervisor = ModuleType("settings"), ModuleType("supervisor")
    settings.ServeSettings = SimpleNamespace  # type: ignore[attr-defined]
    supervisor.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "penstock.server.settings", settings)
    monkeypatch.setitem(sys.modules, "penstock.server.supervisor", supervisor)
    return started


def test_serve_passes_its_flags_on_and_ends_with_the_servers_exit_code(run: Any, served: list[Any]) -> None:
    outcome = run("serve", "--data-dir", "d", "--port", "0", "--executors", "3", "--log-format", "console")
    assert outcome.code == 7
    [settings] = served
    assert (settings.data_dir, settings.host, settings.port) == (Path("d"), "127.0.0.1", 0)
    assert (settings.executors, settings.drain_seconds, settings.log_format) == (3, 10.0, "console")
    assert settings.limits == Limits()


def test_every_operator_limit_is_a_flag_and_a_variable(
    run: Any, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [field.name for field in dataclasses.fields(Limits)]
    counts = {"queue_concurrency_max": 77}
    least = {"transform_memory_bytes_max": 2**29}  # of the others each may be 1 MiB
    flags = {name: counts.get(name, least.get(name, 2**20)) for name in names}
    variables = {name: 2 * size for name, size in flags.items()}
    written = {name: str(size) if name in counts else f"{size >> 20}MiB" for name, size in flags.items()}
    run("serve", *(word for name, text in written.items() for word in (f"--{name.replace('_', '-')}", text)))
    for name, size in variables.items():
        monkeypatch.setenv(f"PENSTOCK_{name.upper()}", str(size))
    run("serve")
    assert [dataclasses.asdict(settings.limits) for settings in served] == [flags, variables]


def test_an_application_is_loaded_before_the_server_starts(run: Any, served: list[Any], tmp_path: Path) -> None:
    text = "from penstock import DurableObject\nclass A(DurableObject): pass\n"
    (tmp_path / "app_of_serve.py").write_text(text)
    run("serve", "--app", "app_of_serve.py")
    [settings] = served
    assert [cls.__name__ for cls in settings.application.classes] == ["A"]
    outcome = run("serve", "--app", "nowhere.py")
    assert (outcome.code, outcome.err) == (1, "error: There is no file nowhere.py.\n")
    assert len(served) == 1


def test_a_size_that_is_none_is_a_usage_error(run: Any, served: list[Any]) -> None:
    outcome = run("serve", "--body-bytes-max", "lots")
    assert outcome.code == 2
    assert "is not a size" in outcome.err
    assert served == []


def test_a_limit_that_cannot_hold_is_a_usage_error(run: Any, served: list[Any]) -> None:
    outcome = run("serve", "--body-bytes-max", "1GiB")
    assert outcome.code == 2
    assert "it may be 66060288 at most" in outcome.err
    assert served == []


def test_lines_are_for_people_at_a_terminal_and_for_machines_elsewhere(
    run: Any, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_words", {})
    run("serve")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("serve", "--log-format", "json")
    assert logs._words == {}
    run("serve")
    assert [settings.log_format for settings in served] == ["json", "json", "console"]


@pytest.mark.parametrize(
    ("data_dir", "words"),
    [
        (
            "data",
            "in another terminal, in this folder: {python} -m penstock pipelines create my-pipeline --bucket ",
        ),
        ("d e", "pipelines create my-pipeline --bucket my-bucket --data-dir '{here}/d e'\n"),
    ],
)
def test_at_a_terminal_a_ready_server_says_where_to_go_on(
    run: Any,
    served: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    data_dir: str,
    words: str,
) -> None:
    monkeypatch.setattr(logs, "_words", {})
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("serve", "--data-dir", data_dir)
    with restored_logs():
        logs.configure_logs("console", process="supervisor")
        structlog.get_logger("test").info("ready", url="http://127.0.0.1:1")
        structlog.get_logger("test").error("cannot_start", error="Cannot listen.")
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "url=http://127.0.0.1:1\n" in err
    assert f"Credentials for the API are in {data_dir}/credentials.toml.\n" in err
    assert words.format(python=sys.executable, here=tmp_path) in err
    assert err.endswith("\nerror: Cannot listen.\n")


def test_measured_sizes_are_all_decimal() -> None:
    assert [format_measured(count) for count in (16_384, 37_000, 999, 5 * 2**20)] == [
        "16.4 kB",
        "37.0 kB",
        "999 B",
        "5.2 MB",
    ]


def test_at_a_terminal_a_ready_server_with_an_application_says_how_to_reach_an_object(
    run: Any, served: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(logs, "_words", {})
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (tmp_path / "tally_app.py").write_text("from penstock import DurableObject\nclass Tally(DurableObject): pass\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        run("serve", "--app", str(tmp_path / "tally_app.py"))
    finally:
        sys.modules.pop("tally_app", None)
    with restored_logs():
        logs.configure_logs("console", process="supervisor")
        structlog.get_logger("test").info("ready", url="http://127.0.0.1:1")
    err = capsys.readouterr().err
    assert ' token)" http://127.0.0.1:1/objects/Tally/my-name/\n' in err
    assert " objects list Tally\n" in err and "pipelines create" not in err


@contextmanager
def restored_logs() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        yield
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
        logging.captureWarnings(False)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


@pytest.mark.parametrize(
    ("text", "size"), [("5", 5), ("5MB", 5_000_000), ("64 MiB", 64 * 2**20), ("1.5kb", 1500), ("0", 0)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "5 parsecs", "1e3"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


def test_sizes_are_written_as_short_as_they_are_true() -> None:
    sizes = [512, 1300, 64 * 2**20, 5_000_000, 5_123_456]
    assert [format_bytes(size) for size in sizes] == ["512 B", "1.3 kB", "64MiB", "5MB", "5.1 MB"]


def test_the_version_is_printed(run: Any) -> None:
    outcome = run("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("penstock ")
