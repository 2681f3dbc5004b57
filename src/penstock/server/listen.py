"""One port for all executors.

On Linux each executor has a listening socket of its own on the same port (SO_REUSEPORT), between which the
kernel spreads connections evenly. Elsewhere they share the supervisor's.
"""

from __future__ import annotations

import errno
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
        self._claim = self._claim_free()
        self._held = self._bind(reuse_port=REUSE_PORT)
        self._address = self._held.getsockname()
        if not REUSE_PORT:
            self._held.listen(_BACKLOG)

    def _claim_free(self) -> socket.socket | None:
        deadline = time.monotonic() + _RELEASE_WAIT_S
        while True:
            try:
                # SO_REUSEPORT would let us share the port with a stranger who set it too: look without it first.
                self._bind(reuse_port=False).close()
                return self._claimed()
            except Conflict:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _claimed(self) -> socket.socket | None:
        """What only one server has at a time; None where the kernel itself refuses the second.

        A bound socket keeps nobody away before it listens, and ours never does: its executors' do, some moments
        later. Two servers that start together would both find the port free, and share it. The name of an abstract
        Unix socket is free again, like the port, when the last process that holds it is gone.
        """
        host, port = self._address[:2]
        if not REUSE_PORT or port == 0:  # the kernel gives each caller another one
            return None
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0penstock {host} {port}")
        except OSError as error:
            claim.close()
            raise self._refused(error) from error
        return claim

    def _bind(self, *, reuse_port: bool) -> socket.socket:
        held = socket.socket(self._family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind(self._address)
        except OSError as error:
            held.close()
            raise self._refused(error) from error
        return held

    def _refused(self, error: OSError) -> Conflict:
        host, port = self._address[:2]
        remedy = "Choose another address with --host, or another port with --port."
        match error.errno:
            case errno.EADDRINUSE:
                remedy = "Choose another port with --port."
            case errno.EADDRNOTAVAIL:
                remedy = "Choose an address of this machine with --host."
            case errno.EACCES:
                remedy = "Choose a port from 1024 up with --port."
        return Conflict(f"Cannot listen on {host}:{port} ({error.strerror}). {remedy}")

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
