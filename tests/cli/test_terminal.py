"""The command in a process of its own: at a terminal, with streams that fail, and interrupted."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PENSTOCK = (sys.executable, "-m", "penstock")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    kept.pop("NO_COLOR", None)
    return kept | {"TERM": "xterm-256color"} | more


def at_a_terminal(*arguments: str, cwd: Path, typed: str = "", **more: str) -> tuple[int, str]:
    """The exit code, and what the terminal was sent; `typed` waits for whoever reads."""
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    try:
        process = subprocess.Popen(
            (*PENSTOCK, *arguments), cwd=cwd, env=environment(**more), stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux, when the last process that had the terminal is gone
                break
            if not piece:
                break
            shown += piece
        return process.wait(30), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    "arguments",
    [("serve", "--port", "x"), ("pipelines", "list"), ("--help",), ("demo", "--data-dir", "file")],
)
def test_no_color_means_no_escape_sequence_at_all(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    assert "\x1b[" in at_a_terminal(*arguments, cwd=tmp_path)[1]
    assert "\x1b" not in at_a_terminal(*arguments, cwd=tmp_path, NO_COLOR="1")[1]


def test_a_server_that_cannot_start_says_so_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, shown = at_a_terminal("serve", "--data-dir", "file", cwd=tmp_path, NO_COLOR="1")
    assert (code, shown) == (1, "error: --data-dir file cannot be used (Not a directory).\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("demo", "--data-dir", "file")])
def test_a_full_disk_behind_stdout_is_an_error_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            (*PENSTOCK, *arguments),
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output (No space left on device)\n")


def test_a_closed_stdout_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    line = f'exec "{sys.executable}" -m penstock --version >&-'
    done = subprocess.run(
        ("sh", "-c", line), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_while_the_command_is_still_being_loaded_ends_it_quietly(tmp_path: Path) -> None:
    # `typer` is the first thing that takes its time; this one tells us when it is being imported, and waits.
    (tmp_path / "typer.py").write_text("import sys, time\nprint('loading', flush=True)\ntime.sleep(30)\n")
    with subprocess.Popen(
        (*PENSTOCK, "--version"),
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where these tests run in the background of a shell, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        assert (process.wait(30), process.stderr.read()) == (130, "")
