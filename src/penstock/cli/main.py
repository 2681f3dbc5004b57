"""The command itself: its groups, `--version`, and what happens to errors."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from penstock.cli import objects, output, pipelines, serve
from penstock.cli.demo.command import demo
from penstock.cli.errors import CliError

app = typer.Typer(
    name="penstock",
    help="Durable event ingestion, and durable objects of your own.",
    no_args_is_help=True,
    # A traceback of ours is for a bug report: complete and plain.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from penstock import __version__

        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("serve")(serve.serve)
app.command("demo")(demo)
app.add_typer(pipelines.app, name="pipelines")
app.add_typer(objects.app, name="objects")


def main() -> None:
    """The entry point of the `penstock` script."""
    for stream in (sys.stdout, sys.stderr):
        # An old terminal that has no 🌀 gets a question mark, not an exception.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except CliError as error:
        output.print_error(str(error))
        sys.exit(1)
