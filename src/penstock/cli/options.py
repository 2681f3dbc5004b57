"""The options that commands share: which server, as whom, and how the result is printed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.target import DATA_DIR_DEFAULT, read_target

__all__ = ["DATA_DIR_DEFAULT", "AccountId", "AsJson", "DataDir", "Token", "Url", "connect"]

if TYPE_CHECKING:
    from penstock.cli.client import Client

AsJson = Annotated[bool, typer.Option("--json", help="Print the API's result as JSON, and nothing else.")]

_SERVER = "Server"
Url = Annotated[
    str | None, typer.Option(help="Address of the server; or set PENSTOCK_URL.", rich_help_panel=_SERVER)
]
Token = Annotated[str | None, typer.Option(help="API token; or set PENSTOCK_TOKEN.", rich_help_panel=_SERVER)]
AccountId = Annotated[
    str | None, typer.Option(help="Account; or set PENSTOCK_ACCOUNT_ID.", rich_help_panel=_SERVER)
]
DataDir = Annotated[
    Path,
    typer.Option(
        envvar="PENSTOCK_DATA_DIR",
        help="Data directory of a server on this machine; its credentials.toml fills in what is not given.",
        rich_help_panel=_SERVER,
    ),
]


def connect(url: str | None, account_id: str | None, token: str | None, data_dir: Path) -> Client:
    from penstock.cli.client import Client

    return Client(read_target(data_dir=data_dir, environ=os.environ, url=url, account_id=account_id, token=token))
