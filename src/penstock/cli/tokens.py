"""`penstock tokens create | list | revoke`: tokens that may do less than the account's own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli import output
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, AsJson, DataDir, Token, Url, connect

Json = dict[str, Any]

app = typer.Typer(help="Make, list and revoke API tokens with scopes.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the token is for, in your words.")],
    scope: Annotated[
        list[str],
        typer.Option(
            help="pipelines:send, pipelines:read, pipelines:write, objects:read or admin; repeat it for more.",
            metavar="SCOPE",
        ),
    ],
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a pipeline that the pipelines scopes hold for; repeat it for more.",
            metavar="NAME",
            show_default="all",
        ),
    ] = None,
    expires_at: Annotated[
        str | None,
        typer.Option(
            help="When it ends, like 2030-01-31T00:00:00Z.", metavar="TIME", show_default="never, until revoked"
        ),
    ] = None,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Make a token. Its secret is printed once: the server keeps only a hash of it."""
    body: Json = {"name": name, "scopes": scope, "pipelines": pipeline or ["*"], "expires_at": expires_at}
    made = connect(url, account_id, token, data_dir).create_token(body)
    if json:
        output.print_json(made)
        return
    output.progress(f"✅ Created token {name} with ID {made.get('id')}. This is its secret, shown only now:")
    typer.echo(str(made.get("token")))


@app.command("list")
def list_(
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """List the tokens, without their secrets. (The one in credentials.toml is not among them.)"""
    tokens = list(connect(url, account_id, token, data_dir).list_tokens())
    if json:
        output.print_json(tokens)
    elif tokens:
        output.print_table(("NAME", "ID", "SCOPES", "PIPELINES", "EXPIRES"), [_row(token) for token in tokens])
    else:
        output.progress("There is no token yet, but the one in credentials.toml.")


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the token, as list shows it.")],
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Revoke a token. It may still be taken for five seconds."""
    result = connect(url, account_id, token, data_dir).revoke_token(id)
    if json:
        output.print_json(result)
    else:
        typer.echo(f"✅ Revoked token {id}")


def _row(token: Json) -> list[str]:
    lists = [", ".join(map(str, token.get(field) or [])) for field in ("scopes", "pipelines")]
    return [str(token.get("name")), str(token.get("id")), *lists, str(token.get("expires_at") or "never")]
