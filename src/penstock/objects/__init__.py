"""Durable objects: a name, one thread of execution, a database, an alarm and an output gate."""

from penstock.objects.durable_object import AlarmInfo, Context, DurableObject, ObjectAborted
from penstock.objects.identity import ObjectId
from penstock.objects.runtime import Runtime
from penstock.objects.sql import SqlConstraintError, SqlCursor, SqlError
from penstock.objects.streams import Chunks
from penstock.objects.stub import Namespace, Stub

__all__ = [
    "AlarmInfo",
    "Chunks",
    "Context",
    "DurableObject",
    "Namespace",
    "ObjectAborted",
    "ObjectId",
    "Runtime",
    "SqlConstraintError",
    "SqlCursor",
    "SqlError",
    "Stub",
]
