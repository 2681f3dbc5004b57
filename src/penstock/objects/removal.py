"""Removing all objects of a class. Blocks; run it before the executors start."""

from __future__ import annotations

from penstock.objects.alarm_table import forget_namespace
from penstock.storage.disk import Disk


def objects_folder(folder: str, namespace: str) -> str:
    return f"{folder}/objects/{namespace}"


def holds_objects(disk: Disk, folder: str, namespace: str) -> bool:
    root = objects_folder(folder, namespace)
    parts = [f"{root}/{part}" for part in disk.list_dir(root)]
    # A file among the folders is somebody else's.
    return any(name.endswith(".db") for part in parts if disk.is_dir(part) for name in disk.list_dir(part))


def remove_objects(disk: Disk, folder: str, namespace: str) -> None:
    """Remove their alarms, then their databases; durable on return. A removal that was cut short is ended by doing
    it again."""
    forget_namespace(disk, f"{folder}/alarms", namespace)
    root = objects_folder(folder, namespace)
    for part in disk.list_dir(root):
        for name in disk.list_dir(f"{root}/{part}"):
            disk.remove(f"{root}/{part}/{name}")
        disk.sync_dir(f"{root}/{part}")
        disk.remove_dir(f"{root}/{part}")
    if disk.is_dir(root):
        disk.sync_dir(root)
        disk.remove_dir(root)
        disk.sync_dir(f"{folder}/objects")
