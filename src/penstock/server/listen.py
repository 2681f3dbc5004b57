"""One port for all executors.

On Linux each executor has a listening socket of its own on the same port (SO_REUSEPORT), between which the
kernel spreads connections evenly. Elsewhere they share the supervisor's.
"""

from __future__ import annotations

import socket
import sys
import time

from penstock.base.errors import Conflict, Invalid

_BACKLOG = 2048
#: How long a start waits for the port: executors of a server that was killed let go of it within milliseconds.
_RELEASE_WAIT_S = 1.0
REUSE_PORT = sys.platform == "linux"


class Port:
    """The server's address, held by the supervisor for as long as it lives."""

    def __init__(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as error:
            raise Invalid(f"--host {host!r} cannot be resolved: {error.strerror}.") from error
        self._family: int = found[0][0]
        address = found[0][4]
        self._address: tuple[object, ...] = address
        # SO_REUSEPORT would let us share the port with a stranger who set it too: look without it first.
        self._find_free()
        self._held = self._bind(reuse_port=REUSE_PORT)
        self._address = self._held.getsockname()
        if not REUSE_PORT:
            self._held.listen(_BACKLOG)

    def _find_free(self) -> None:
        deadline = time.monotonic() + _RELEASE_WAIT_S
        while True:
            try:
                self._bind(reuse_port=False).close()
                return
            except Conflict:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _bind(self, *, reuse_port: bool) -> socket.socket:
        held = socket.socket(self._family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind(self._address)
        except OSError as error:
            held.close()
            host, port = self._address[:2]
            raise Conflict(
                f"{host}:{port} cannot be listened on ({error.strerror}). Give --port another."
            ) from error
        return held

    @property
    def url(self) -> str:
        """Where a client on this machine finds the server."""
        host, port = self._address[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def listen(self) -> socket.socket:
        """A listening socket for one executor; call it in the executor."""
        if not REUSE_PORT:
            return self._held
        listening = self._bind(reuse_port=True)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        return listening
