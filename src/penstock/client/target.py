"""Which server, which account, which token: what is given, before the environment, before `credentials.toml`.

Each value remembers where it came from, since "the token is wrong" helps nobody who has three of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from penstock.base.errors import Invalid

DATA_DIR_DEFAULT = Path("data")
CREDENTIALS_FILE = "credentials.toml"
URL_DEFAULT = "http://127.0.0.1:8787"

#: What the person who gives a value calls it: `--account-id` at the command line, `account_id` in code.
Spelling = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and the place that gave it, in words a user knows (`--url`, `PENSTOCK_URL`, a path)."""

    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and as whom. `url` has no slash at its end."""

    url: Setting
    account_id: Setting
    token: Setting


def find_target(
    *,
    data_dir: Path,
    environ: Mapping[str, str],
    spelling: Spelling,
    url: str | None = None,
    account_id: str | None = None,
    token: str | None = None,
) -> Target:
    """Decide the target; `url`, `account_id` and `token` are what was given, None where nothing was.

    Raises Invalid when the account or the token is nowhere to be found, or the URL is not one.
    """
    found, path = _find(data_dir, environ, spelling, {"url": url, "account_id": account_id, "token": token})
    found.setdefault("url", Setting(URL_DEFAULT, "the default"))
    for name, what in (("account_id", "account"), ("token", "token")):
        if name not in found:
            raise Invalid(_nothing_found(what, name, path, spelling))
    return Target(checked_url(found["url"]), found["account_id"], found["token"])


def find_token(*, data_dir: Path, environ: Mapping[str, str], spelling: Spelling, token: str | None = None) -> str:
    """The token that `find_target` would decide on; the rest of the target need not be known."""
    found, path = _find(data_dir, environ, spelling, {"token": token})
    if "token" not in found:
        raise Invalid(_nothing_found("token", "token", path, spelling))
    return found["token"].value


def _find(
    data_dir: Path, environ: Mapping[str, str], spelling: Spelling, given: Mapping[str, str | None]
) -> tuple[dict[str, Setting], Path]:
    """What was given, each from the first place that has it; and the file that was or would be the last."""
    path = data_dir / CREDENTIALS_FILE
    found: dict[str, Setting] = {}
    file: dict[str, object] | None = None
    for name, argument in given.items():
        variable = f"PENSTOCK_{name.upper()}"
        if argument:
            found[name] = Setting(argument, spelling(name))
        elif environ.get(variable):
            found[name] = Setting(environ[variable], variable)
        else:
            # Read only when needed: whoever gives everything otherwise needs no readable file.
            file = _read_file(path) if file is None else file
            value = file.get(name)
            if isinstance(value, str) and value:
                found[name] = Setting(value, str(path))
    return found, path


def _read_file(path: Path) -> dict[str, object]:
    """The file's contents; empty when there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not valid TOML: {error}") from None


def _nothing_found(what: str, name: str, path: Path, spelling: Spelling) -> str:
    variable = f"PENSTOCK_{name.upper()}"
    state = f"{path} has no {name}" if path.exists() else f"there is no {path} (`penstock serve` writes it)"
    data_dir, argument = spelling("data_dir"), spelling(name)
    return f"no {what} is known: {state}; pass {data_dir} of the server, or {argument}, or set {variable}"


def checked_url(url: Setting) -> Setting:
    """The URL without a slash at its end. Raises Invalid if it is none for HTTP."""
    try:
        parts = urlsplit(url.value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Invalid(f"{url.value!r} (from {url.origin}) is not a URL like {URL_DEFAULT}")
    return Setting(url.value.rstrip("/"), url.origin)
