"""The user's application, as this server can serve it."""

from __future__ import annotations

from penstock.apps import Application
from penstock.apps.loading import load
from penstock.server.node import OWN_NAMES


def load_application(target: str) -> Application:
    """Run the user's code and look at what it defines. Raises `Invalid` with what to change."""
    return load(target, OWN_NAMES)
