"""From a file or a module to an application: the user's code is run here.

It runs in the supervisor before that has opened anything, so there is nothing of the server for it to see, and
before the fork, so that every executor, a restarted one too, runs the same version of it. A worker, which is no
fork, runs the same text again (`worker.py`).
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from penstock.apps.app import App
from penstock.apps.application import Application, UserClass, checked
from penstock.apps.migration import Migration
from penstock.apps.source import import_target
from penstock.base.errors import Invalid
from penstock.objects import DurableObject


def load(target: str, reserved: Sequence[str]) -> Application:
    """The application in `target`: the path of a Python file, or the name of a module that can be imported from the
    working directory. Its classes are the public subclasses of `DurableObject` that it defines, or, if it has an
    `__all__`, those named there. Its attributes `env` and `migrations` belong to it, too, and what is registered
    with its `App`, if one of its attributes is one.

    Raises `Invalid` with what to change; for an error in the user's code with the lines of the traceback that are
    the user's."""
    threads = threading.active_count()
    module, source = import_target(target)
    if threading.active_count() > threads:
        raise Invalid(
            f"{target} starts a thread when it is imported, which no executor would have: threads do not survive a "
            "fork. Start it when an object is constructed."
        )
    try:
        app, classes = find_app(module), _classes(module)
        transforms = dict(app.transforms) if app is not None else {}
        if not classes and not transforms:
            raise Invalid(
                "It defines no public subclass of penstock.DurableObject, and registers nothing with a "
                "penstock.App. Write class Counter(penstock.DurableObject), say: classes whose names begin with _, "
                "and imported ones that are not in __all__, are not served."
            )
        return checked(
            Application(target, classes, *_settings(module), transforms=transforms, origin=source), reserved
        )
    except Invalid as error:
        raise Invalid(f"{target} cannot be served. {error.message}") from error


def find_app(module: ModuleType) -> App | None:
    """The module's `App`. It may be imported, from the module where the functions are. Raises `Invalid` for two."""
    apps = {id(value): (name, value) for name, value in vars(module).items() if isinstance(value, App)}
    if len(apps) > 1:
        names = " and ".join(sorted(name for name, _ in apps.values()))
        raise Invalid(f"It has more than one penstock.App ({names}); register everything with one.")
    return next((app for _, app in apps.values()), None)


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
    return tuple(found)


def _settings(module: ModuleType) -> tuple[Any, tuple[Migration, ...]]:
    migrations = getattr(module, "migrations", ())
    if not isinstance(migrations, (list, tuple)) or not all(isinstance(m, Migration) for m in migrations):
        raise Invalid("Its `migrations` must be a list of penstock.Migration.")
    return getattr(module, "env", None), tuple(migrations)
