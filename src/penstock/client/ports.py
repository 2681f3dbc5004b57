"""What a client needs of the world, so that a test can give it another one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from penstock.base.clock import Clock, SystemClock
from penstock.base.rng import Rng, system_rng
from penstock.client.answers import Answer


class NoAnswer(Exception):
    """Nobody answered, or not in time, or not in HTTP. `hopeless`: nor will anybody later."""

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hopeless = hopeless


class Transport(Protocol):
    """HTTP, as seen from a client."""

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_ms: int
    ) -> Answer:
        """One try. Redirects are answers. Raises `NoAnswer`."""
        ...

    async def close(self) -> None: ...


def _http() -> Transport:
    from penstock.client.transport import AiohttpTransport

    return AiohttpTransport()


@dataclass(frozen=True, slots=True)
class ClientPorts:
    """Clock, randomness, environment and HTTP; those of the machine where nothing else is given."""

    clock: Clock = field(default_factory=SystemClock)
    rng: Rng = field(default_factory=system_rng)
    #: None: the process's, read when a server is looked for.
    environ: Mapping[str, str] | None = None
    #: Called on the client's event loop.
    transport: Callable[[], Transport] = _http

    def environment(self) -> Mapping[str, str]:
        return os.environ if self.environ is None else self.environ
