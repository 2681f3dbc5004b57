"""Renamed and deleted classes: the decisions. Pure; `catalog.py` carries them out.

A class has a *namespace*: the place of its objects, from whose name their keys are computed. Its name is that of
the class at first. To rename a class is to give its namespace to another class name, and nothing of any object is
touched: not its file, not its key, not its entry in the index of alarms. So a rename is one line in the catalog.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from msgspec import Struct

from penstock.base.errors import Invalid


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What became of classes, declared in the application's `migrations`; each is applied once, in order.

    `tag` is its name, which must not change after it was applied. `renamed` maps old names of classes to new ones:
    their objects are those of the new class from then on. `deleted` are classes whose objects are removed with all
    that they hold. Names of classes that have no objects are ignored, so that a list of old migrations works on a
    new data directory.
    """

    tag: str = field(kw_only=False)
    renamed: Mapping[str, str] = field(default_factory=dict)
    deleted: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.tag, str) or not self.tag:
            raise TypeError("a Migration's tag must be a text that is not empty")
        if not isinstance(self.renamed, Mapping) or not _are_names([*self.renamed, *self.renamed.values()]):
            raise TypeError('a Migration\'s renamed must map names to names: renamed={"Old": "New"}')
        if isinstance(self.deleted, str) or not _are_names(self.deleted):
            raise TypeError('a Migration\'s deleted must be a list of names: deleted=["Gone"]')
        if len({*self.renamed.values()}) < len(self.renamed):
            raise TypeError("a Migration's renamed gives one name to two classes")


def _are_names(names: Collection[object]) -> bool:
    return all(isinstance(name, str) and name for name in names)


class Catalog(Struct, frozen=True, forbid_unknown_fields=True):
    """What a data directory knows of user classes: the namespace of each, the tags of the migrations that were
    applied, and the namespaces whose objects are being removed."""

    namespaces: dict[str, str] = {}
    applied: list[str] = []
    removing: list[str] = []


class Wanted(Protocol):
    """What is planned for: an `Application`."""

    @property
    def class_names(self) -> set[str]: ...
    @property
    def migrations(self) -> Sequence[Migration]: ...


def pending(catalog: Catalog, migrations: Sequence[Migration]) -> list[Migration]:
    return [migration for migration in migrations if migration.tag not in catalog.applied]


def plan(catalog: Catalog, application: Wanted, populated: Collection[str]) -> Catalog:
    """The catalog with which the application can be served; `populated` are the namespaces that hold objects.
    Raises `Invalid` with what to write when classes are gone without a word, and nothing has changed then."""
    owned = {*catalog.namespaces.values(), *catalog.removing}
    classes = catalog.namespaces | {namespace: namespace for namespace in populated if namespace not in owned}
    removing = list(catalog.removing)
    todo = pending(catalog, application.migrations)
    for migration in todo:
        classes = _renamed(classes, migration, populated)
        for name in migration.deleted:
            namespace = classes.pop(name, None)
            if namespace is None or namespace not in populated:
                continue
            if name in application.class_names:
                raise Invalid(
                    f"Migration {migration.tag!r} deletes the objects of {name}, but the application still has "
                    "that class. Remove the class, or its name from the migration."
                )
            removing.append(namespace)
    homeless = classes.keys() - application.class_names
    lost = sorted(name for name in homeless if classes[name] in populated)
    if lost:
        hint = _about_migrations(lost, todo, application)
        raise Invalid(hint + _what_to_write(lost, {*catalog.applied, *(migration.tag for migration in todo)}))
    classes = {name: namespace for name, namespace in classes.items() if name in application.class_names}
    for name in sorted(application.class_names - classes.keys()):
        classes[name] = _free_namespace(name, {*classes.values(), *populated, *removing})
    return msgspec.structs.replace(
        catalog,
        namespaces=dict(sorted(classes.items())),
        applied=[*catalog.applied, *(migration.tag for migration in todo)],
        removing=removing,
    )


def _renamed(classes: dict[str, str], migration: Migration, populated: Collection[str]) -> dict[str, str]:
    moving = {old: new for old, new in migration.renamed.items() if classes.get(old) in populated}
    staying = {name: namespace for name, namespace in classes.items() if name not in moving}
    for old, new in moving.items():
        if staying.get(new) in populated:
            raise Invalid(
                f"Migration {migration.tag!r} renames {old} to {new}, but there are objects of {new} already, "
                f"which cannot become one with those of {old}. Rename to another class, or delete {new} in a "
                "migration before."
            )
    return staying | {new: classes[old] for old, new in moving.items()}


def _free_namespace(name: str, taken: set[str]) -> str:
    """That of the name itself, unless a renamed class has it."""
    lowered, namespace, number = {other.lower() for other in taken}, name, 1
    while namespace.lower() in lowered:
        number += 1
        namespace = f"{name}-{number}"
    return namespace


def _about_migrations(lost: list[str], todo: list[Migration], application: Wanted) -> str:
    """What is wrong with a migration, if one is the reason why these classes are missing."""
    for migration in todo:
        for old, new in migration.renamed.items():
            if new in lost:
                return f"Migration {migration.tag!r} renames {old} to {new}; is {new} spelled right? "
    for migration in application.migrations:
        if migration not in todo and any(name in migration.renamed or name in migration.deleted for name in lost):
            return (
                f"Migration {migration.tag!r} was applied before, so what it says now is ignored: write a new one. "
            )
    return ""


def _what_to_write(lost: list[str], tags: set[str]) -> str:
    tag = next(tag for tag in (f"v{number}" for number in range(1, len(tags) + 2)) if tag not in tags)
    names = ", ".join(lost)
    keep = ", ".join(f'"{name}": "<its new name>"' for name in lost)
    delete = ", ".join(f'"{name}"' for name in lost)
    return (
        f"There are objects of {names}, but the application has no such class. Put the class back, or say in the "
        f'application\'s list `migrations` what became of it: Migration(tag="{tag}", renamed={{{keep}}}) keeps the '
        f'objects, Migration(tag="{tag}", deleted=[{delete}]) removes them with all that they hold. If '
        "this is another application, start it with a --data-dir of its own."
    )
