"""What users bring: an application, that is a Python file with classes of durable objects."""

from penstock.apps.application import NO_APPLICATION, Application
from penstock.apps.message import Headers, Request, Response
from penstock.apps.migration import Migration

__all__ = ["NO_APPLICATION", "Application", "Headers", "Migration", "Request", "Response"]
