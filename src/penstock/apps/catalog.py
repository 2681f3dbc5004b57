"""The catalog of user classes in the data directory, `classes.json`, brought up to date before the executors start.

The order makes a crash harmless at every step. The new catalog is one file, replaced in one step. It names what
is to be removed, so that a start that finds it goes on removing; a namespace is free again only when nothing of it
is left.
"""

from __future__ import annotations

import msgspec
import structlog

from penstock.apps.application import Application
from penstock.apps.migration import Catalog, pending, plan
from penstock.base.errors import Invalid
from penstock.objects.removal import holds_objects, objects_folder, remove_objects
from penstock.storage.disk import Disk

log = structlog.get_logger("penstock.apps")


def migrate(disk: Disk, folder: str, application: Application, own: set[str]) -> dict[str, str]:
    """Apply what is pending of the application's migrations; gives the namespace of each of its classes. `own` are
    the namespaces of the server's own classes. Blocks. Raises `Invalid` with what to write, having changed
    nothing."""
    path = f"{folder}/classes.json"
    catalog = _read(disk, path)
    folders = [name for name in disk.list_dir(f"{folder}/objects") if disk.is_dir(objects_folder(folder, name))]
    populated = {name for name in folders if name not in own and holds_objects(disk, folder, name)}
    planned = plan(catalog, application, populated)
    if planned != catalog:
        for migration in pending(catalog, application.migrations):
            log.info(
                "migration_applied",
                tag=migration.tag,
                renamed=dict(migration.renamed),
                deleted=list(migration.deleted),
            )
        _write(disk, folder, path, planned)
    for namespace in planned.removing:
        log.info("objects_removed", folder=objects_folder(folder, namespace))
        remove_objects(disk, folder, namespace)
    if planned.removing:
        _write(disk, folder, path, msgspec.structs.replace(planned, removing=[]))
    return planned.namespaces


def _read(disk: Disk, path: str) -> Catalog:
    if not disk.exists(path):
        return Catalog()
    try:
        return msgspec.json.decode(disk.read(path), type=Catalog)
    except msgspec.DecodeError as error:
        raise Invalid(f"{path} is damaged ({error}). Restore it from a backup.") from error


def _write(disk: Disk, folder: str, path: str, catalog: Catalog) -> None:
    disk.write(path + ".new", [msgspec.json.format(msgspec.json.encode(catalog))])
    disk.rename(path + ".new", path)
    disk.sync_dir(folder)
