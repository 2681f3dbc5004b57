"""From a file or a module to an application: the user's code is run here, once.

It runs in the supervisor before that has opened anything, so there is nothing of the server for it to see, and
before the fork, so that every executor, a restarted one too, runs the same version of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from penstock.apps.application import Application, UserClass, checked
from penstock.apps.migration import Migration
from penstock.base.errors import Invalid
from penstock.objects import DurableObject


def load(target: str, reserved: Sequence[str]) -> Application:
    """The application in `target`: the path of a Python file, or the name of a module that can be imported from the
    working directory. Its classes are the public subclasses of `DurableObject` that it defines, or, if it has an
    `__all__`, those named there. Its attributes `env` and `migrations` belong to it, too.

    Raises `Invalid` with what to change; for an error in the user's code with the lines of the traceback that are
    the user's."""
    threads = threading.active_count()
    is_file = target.endswith(".py") or "/" in target
    module = _import_file(Path(target)) if is_file else _import_module(target)
    if threading.active_count() > threads:
        raise Invalid(
            f"{target} starts a thread when it is imported, which no executor would have: threads do not survive a "
            "fork. Start it when an object is constructed."
        )
    try:
        return checked(Application(target, _classes(module), *_settings(module)), reserved)
    except Invalid as error:
        raise Invalid(f"{target} cannot be served. {error.message}") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Invalid(f"There is no file {path}.")
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names or name == "penstock":
        raise Invalid(f"{path} has the name of another Python module, {name}; rename it.")
    folder = path.absolute().parent
    # As if it were run by `python app.py`: its neighbours can be imported.
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise Invalid(_explained(str(path), error, folder)) from error
    return module


def _import_module(name: str) -> ModuleType:
    folder = Path.cwd()
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise Invalid(f"There is no module {name!r} in {folder}, nor among those installed.") from error
        raise Invalid(_explained(name, error, folder)) from error
    except (Exception, SystemExit) as error:
        raise Invalid(_explained(name, error, folder)) from error


def _explained(target: str, error: BaseException, folder: Path) -> str:
    """What went wrong, with the lines of a traceback that are the user's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename, folder)]
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(error)]
    return f"{target} cannot be imported.\n\n{''.join(lines).rstrip()}"


def _is_users(file: str, folder: Path) -> bool:
    inside = Path(file).is_absolute() and Path(file).is_relative_to(folder)
    return inside and "site-packages" not in file and not file.startswith(_PENSTOCK)


_PENSTOCK = str(Path(__file__).parents[1])


def _classes(module: ModuleType) -> tuple[UserClass, ...]:
    names = getattr(module, "__all__", None)
    missing = [str(name) for name in names or () if not hasattr(module, str(name))]
    if missing:
        raise Invalid(f"Its __all__ names what it does not have: {', '.join(missing)}.")
    chosen = vars(module) if names is None else names
    found = []
    for name in chosen:
        value = getattr(module, name, None)
        if not inspect.isclass(value) or not issubclass(value, DurableObject) or value.__name__ != name:
            continue
        if names is not None or (value.__module__ == module.__name__ and not name.startswith("_")):
            found.append(value)
    if not found:
        raise Invalid(
            "It defines no class to serve: write class Counter(penstock.DurableObject). Classes whose names begin "
            "with _, and imported ones that are not in __all__, are not served."
        )
    return tuple(found)


def _settings(module: ModuleType) -> tuple[Any, tuple[Migration, ...]]:
    migrations = getattr(module, "migrations", ())
    if not isinstance(migrations, (list, tuple)) or not all(isinstance(m, Migration) for m in migrations):
        raise Invalid("Its `migrations` must be a list of penstock.Migration.")
    return getattr(module, "env", None), tuple(migrations)
