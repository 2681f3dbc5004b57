"""Durable event ingestion, and durable objects, on one machine or many.

`penstock serve` runs it, `penstock demo` shows it. An application imports what it is made of from here, and so
does a program that sends records:

    from penstock import DurableObject, Request, Response
    from penstock import Client
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.apps import App, Headers, Migration, Request, Response
    from penstock.base.errors import (
        Conflict,
        Forbidden,
        Invalid,
        NotFound,
        ObjectFailed,
        Overloaded,
        PenstockError,
        StorageFull,
        TooLarge,
        Unauthenticated,
        Unavailable,
    )
    from penstock.client.asynchronous import AsyncClient
    from penstock.client.errors import SendError
    from penstock.client.settings import ClientSettings
    from penstock.client.synchronous import Client
    from penstock.objects import (
        AlarmInfo,
        Chunks,
        Context,
        DurableObject,
        Namespace,
        ObjectAborted,
        ObjectId,
        SqlConstraintError,
        SqlCursor,
        SqlError,
        Stub,
    )

__all__ = [
    "AlarmInfo",
    "App",
    "AsyncClient",
    "Chunks",
    "Client",
    "ClientSettings",
    "Conflict",
    "Context",
    "DurableObject",
    "Forbidden",
    "Headers",
    "Invalid",
    "Migration",
    "Namespace",
    "NotFound",
    "ObjectAborted",
    "ObjectFailed",
    "ObjectId",
    "Overloaded",
    "PenstockError",
    "Request",
    "Response",
    "SendError",
    "SqlConstraintError",
    "SqlCursor",
    "SqlError",
    "StorageFull",
    "Stub",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
]

__version__: str

if not TYPE_CHECKING:
    _MODULES = {
        "penstock.apps": ("App", "Headers", "Migration", "Request", "Response"),
        "penstock.client.asynchronous": ("AsyncClient",),
        "penstock.client.errors": ("SendError",),
        "penstock.client.settings": ("ClientSettings",),
        "penstock.client.synchronous": ("Client",),
        "penstock.objects": (
            "AlarmInfo",
            "Chunks",
            "Context",
            "DurableObject",
            "Namespace",
            "ObjectAborted",
            "ObjectId",
            "SqlConstraintError",
            "SqlCursor",
            "SqlError",
            "Stub",
        ),
    }
    _MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

    def __getattr__(name):
        # Looked up when somebody asks: the command imports this package too, and has to be quick without the
        # runtime; and reading the installed metadata takes longer than starting a process does.
        if name == "__version__":
            from penstock.base.version import installed_version

            return installed_version()
        if name in __all__:
            from importlib import import_module

            value = globals()[name] = getattr(import_module(_MODULE_OF.get(name, "penstock.base.errors")), name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
