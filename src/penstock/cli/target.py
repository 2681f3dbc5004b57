"""Which server, which account, which token: flags before environment before `credentials.toml`.

The search is the one of `penstock.Client`; here it speaks of flags, and fails as a command does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from penstock.base.errors import Invalid
from penstock.cli.errors import CliError
from penstock.client.target import (
    CREDENTIALS_FILE,
    DATA_DIR_DEFAULT,
    URL_DEFAULT,
    Setting,
    Target,
    find_target,
    find_token,
)

__all__ = ["CREDENTIALS_FILE", "DATA_DIR_DEFAULT", "URL_DEFAULT", "Setting", "Target", "read_target", "read_token"]


def read_target(
    *,
    data_dir: Path,
    environ: Mapping[str, str],
    url: str | None = None,
    account_id: str | None = None,
    token: str | None = None,
) -> Target:
    """Decide the target; `url`, `account_id` and `token` are the flags, None where not given.

    Raises CliError when the account or the token is nowhere to be found, or the URL is not one.
    """
    try:
        return find_target(
            data_dir=data_dir, environ=environ, spelling=_flag, url=url, account_id=account_id, token=token
        )
    except Invalid as error:
        raise CliError(error.message) from None


def read_token(*, data_dir: Path, environ: Mapping[str, str], token: str | None = None) -> str:
    """The token that `read_target` would decide on; the rest of the target need not be known."""
    try:
        return find_token(data_dir=data_dir, environ=environ, spelling=_flag, token=token)
    except Invalid as error:
        raise CliError(error.message) from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
