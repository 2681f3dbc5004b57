"""`penstock objects list | info | sql`: a look at durable objects. It changes nothing and wakes nobody."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import output
from penstock.cli.errors import CliError
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, AsJson, DataDir, Token, Url, connect
from penstock.cli.sizes import format_measured

if TYPE_CHECKING:
    from penstock.cli.client import Client

Json = dict[str, Any]

app = typer.Typer(help="Look at durable objects.", no_args_is_help=True)

ClassName = Annotated[str, typer.Argument(metavar="CLASS", help="Class of the object.")]
Name = Annotated[str, typer.Argument(help="Name of the object; with --id, its id.")]
IsId = Annotated[bool, typer.Option("--id", help="NAME is the object's id: 64 hexadecimal digits.")]

_COLUMNS = ("NAME", "ID", "SIZE", "ACTIVE", "LAST ACTIVE", "ALARM", "FAILURES")


@app.command("list")
def list_(
    class_name: Annotated[
        str | None,
        typer.Argument(metavar="[CLASS]", help="Class whose objects to list; default: list the classes."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most so many objects.")] = 100,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """List the classes, or the objects of one, in the order of their ids."""
    client = connect(url, account_id, token, data_dir)
    if class_name is None:
        _list_classes(client, json)
        return
    found = list(itertools.islice(client.list_objects(_namespace(client, class_name)), limit + 1))
    shown = found[:limit]
    if json:
        output.print_json(shown)
    elif shown:
        output.print_table(_COLUMNS, [_row(object) for object in shown], right=("SIZE", "FAILURES"))
    else:
        output.progress(f"There is no object of {class_name} yet.")
    if len(found) > limit:
        output.progress(f"There are more than {limit}; see more with --limit.")


def _list_classes(client: Client, json: bool) -> None:
    namespaces = list(client.list_namespaces())
    if json:
        output.print_json(namespaces)
        return
    columns = ("class", "id", "script")
    rows = [[str(namespace.get(column, "")) for column in columns] for namespace in namespaces]
    output.print_table(("CLASS", "NAMESPACE", "FROM"), rows)


@app.command()
def info(
    class_name: ClassName,
    name: Name,
    id: IsId = False,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Show one object: its size, when it was last active, its alarm, what failed."""
    client = connect(url, account_id, token, data_dir)
    object = _find(client, _namespace(client, class_name), name, id)
    if json:
        output.print_json(object)
    else:
        output.print_settings(_settings(object))


@app.command()
def sql(
    class_name: ClassName,
    name: Name,
    query: Annotated[str, typer.Argument(help="One SELECT; anything else is refused.")],
    id: IsId = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show at most so many rows.")] = 100,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Run a read-only query on the database of one object."""
    client = connect(url, account_id, token, data_dir)
    namespace = _namespace(client, class_name)
    found = client.query_object(namespace, _find(client, namespace, name, id)["id"], query, limit)
    if json:
        output.print_json(found)
    else:
        output.print_table(found["columns"], [[_cell(value) for value in row] for row in found["rows"]])
    if found.get("truncated"):
        output.progress("There are more rows; see more with --limit, or ask for less.")


_ID = re.compile(r"[0-9a-f]{64}")


def _namespace(client: Client, class_name: str) -> str:
    known = {str(namespace["class"]): str(namespace["id"]) for namespace in client.list_namespaces()}
    if class_name not in known:
        raise CliError(f"there is no class {class_name!r}; known are {', '.join(sorted(known))}")
    return known[class_name]


def _find(client: Client, namespace: str, name: str, is_id: bool) -> Json:
    if is_id:
        if not _ID.fullmatch(name):
            raise CliError(f"an id is 64 hexadecimal digits; leave out --id to find {name!r} by its name")
        return client.get_object(namespace, name)
    object = client.find_object(namespace, name)
    if object is None:
        raise CliError(
            f"there is no object of that class with the name {name!r}; `penstock objects list <class>` says which"
        )
    return object


def _row(object: Json) -> list[str]:
    return [
        _name(object),
        str(object.get("id")),
        format_measured(object.get("size_bytes", 0)),
        "yes" if object.get("active") else "no",
        _time(object.get("last_active_ms")),
        _alarm(object.get("alarm")),
        str(object.get("failures", 0)),
    ]


def _settings(object: Json) -> list[tuple[str, str]]:
    rows = list(
        zip(("Name", "Id", "Size", "Active", "Last active", "Alarm", "Failures"), _row(object), strict=True)
    )
    if object.get("error"):
        rows.append(("Cannot be read", output.printable(object["error"])))
    if object.get("last_failure"):
        rows.append(
            ("Last failure", f"{_time(object.get('last_failure_ms'))}  {output.printable(object['last_failure'])}")
        )
    return rows


def _name(object: Json) -> str:
    name = object.get("name")
    return "(none)" if name is None else output.printable(str(name))


def _alarm(alarm: Json | None) -> str:
    if alarm is None:
        return "none"
    if alarm.get("failed"):
        return f"failed for good after {alarm.get('retries')} retries"
    retries = f", retry {alarm['retries']}" if alarm.get("retries") else ""
    return _time(alarm.get("at_ms")) + retries


def _time(ms: int | None) -> str:
    if not ms:
        return ""
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"  # beyond what a calendar has


def _cell(value: Any) -> str:
    """NULL and blobs as in SQL; texts as they are."""
    if value is None:
        return "NULL"
    if isinstance(value, dict):
        import base64

        return f"x'{base64.b64decode(value.get('base64', '')).hex()}'"
    return output.printable(str(value))
