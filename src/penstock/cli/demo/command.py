"""The command: where the server lives, and that it ends."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.errors import ApiError, CliError

if TYPE_CHECKING:
    from penstock.cli.demo.files import Arrivals
    from penstock.cli.demo.process import Server

FOLDER_DEFAULT = Path("penstock-demo")


def demo(
    once: Annotated[
        bool,
        typer.Option("--once", help="Stop after showing the files; exit 1 if anything went wrong."),
    ] = False,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="Port of the server; when it is taken, or 0, any free one."
        ),
    ] = 8787,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where the server keeps everything.",
            show_default="./penstock-demo; with --once a temporary folder",
        ),
    ] = None,
) -> None:
    """See it work: start a server, make a pipeline, send a clickstream, show the files and a query.

    Then it keeps serving until Ctrl-C, for you to send records of your own.
    """
    # However the demo is told to end, the server ends with it: the handlers make `with Server` do its part.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
    if data_dir is not None or not once:
        _run(data_dir or FOLDER_DEFAULT, port, once=once)
        if once:
            _say_how_to_keep_it("The folder stays")
        return
    folder = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    try:
        _run(folder, port, once=True)
    except BaseException:
        typer.echo(f"What the server left is in {folder}", err=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    _say_how_to_keep_it("The folder is removed now")


def _say_how_to_keep_it(state: str) -> None:
    typer.echo(f"\n{state}; without --once the demo (scripts/demo, or penstock demo) keeps serving.")


def _run(data_dir: Path, port: int, *, once: bool) -> None:
    from penstock.cli.demo import story
    from penstock.cli.demo.process import Server, shown

    story.step(f"Starting a server, with its data in {shown(data_dir)}")
    with Server(data_dir, port) as server:
        try:
            arrivals, records = story.tell(server, data_dir, once=once)
        except ApiError as error:
            # The server is our own, so its log is at hand.
            raise CliError(f"{error}{server.log_tail()}") from None
        if not once:
            _serve(server, arrivals)
        story.step("Stopping the server")
    if server.exit_code != 0:
        raise CliError(f"the server ended with exit code {server.exit_code}{server.log_tail()}")
    # A record delivered twice would show at the latest now, when the server has delivered all it had.
    story.check(arrivals, records)
    typer.echo(f"  Each of the {len(records)} records is in a file, exactly once.")


def _serve(server: Server, arrivals: Arrivals) -> None:
    """Show new files as they appear, until Ctrl-C."""
    from penstock.cli.demo import story
    from penstock.cli.demo.wait import wait

    story.step("Serving until Ctrl-C; files with new records show here:")
    try:
        while server.is_running():
            wait(lambda: story.show_new_files(arrivals) or not server.is_running(), 3600)
    except KeyboardInterrupt:
        typer.echo()
        return
    raise CliError(f"the server ended by itself{server.log_tail()}")
