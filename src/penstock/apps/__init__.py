"""What users bring: an application, that is a Python file with classes of durable objects and functions."""

from penstock.apps.app import App
from penstock.apps.application import NO_APPLICATION, Application
from penstock.apps.message import Headers, Request, Response
from penstock.apps.migration import Migration

__all__ = ["NO_APPLICATION", "App", "Application", "Headers", "Migration", "Request", "Response"]
