"""What `penstock serve` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from penstock.apps import NO_APPLICATION, Application
from penstock.base.limits import Limits


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """`port` 0 takes any free one. `executors` is from 1 to `EXECUTORS_MAX`. `drain_seconds` is how long requests
    under way may take to end after SIGTERM. `blocked_seconds_max` is how long an executor may stand still before it
    is ended and started again; 0 is for ever."""

    data_dir: Path
    executors: int
    host: str = "127.0.0.1"
    port: int = 8787
    drain_seconds: float = 10.0
    blocked_seconds_max: float = 60.0
    limits: Limits = field(default_factory=Limits)
    log_format: Literal["json", "console"] = "json"
    application: Application = NO_APPLICATION
    #: `secret.key` in the data directory, unless given.
    secret_key_file: Path | None = None
