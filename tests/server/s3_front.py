"""Stands before an S3 server and can keep uploads waiting."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .harness import DEADLINE_S


class S3Front:
    """Passes requests on. After `hold` it has each PUT wait, until `release`."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._held = threading.Semaphore(0)
        self._released = threading.Event()
        self._released.set()
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                self._pass_on()

            def do_GET(self) -> None:
                self._pass_on()

            def do_HEAD(self) -> None:
                self._pass_on()

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.command == "PUT":
                    front.wait_released()
                upstream = http.client.HTTPConnection("127.0.0.1", front._upstream, timeout=DEADLINE_S)
                try:
                    # The Host header as it came, which the signature covers.
                    upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        upstream.putheader(name, value)
                    upstream.endheaders(body)
                    answer = upstream.getresponse()
                    content = answer.read()
                finally:
                    upstream.close()
                try:
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                            self.send_header(name, value)
                    length = answer.getheader("content-length") if self.command == "HEAD" else len(content)
                    self.send_header("Content-Length", str(length))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True  # whoever asked is gone

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> S3Front:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join(DEADLINE_S)
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def hold(self) -> None:
        self._released.clear()

    def wait_held(self) -> None:
        """Until an upload waits."""
        assert self._held.acquire(timeout=DEADLINE_S), "nothing was uploaded"

    def wait_released(self) -> None:
        if not self._released.is_set():
            self._held.release()
            assert self._released.wait(2 * DEADLINE_S)

    def release(self) -> None:
        self._released.set()
