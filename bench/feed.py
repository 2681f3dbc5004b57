"""A feed: requests sent one after the other on a few connections, until something is reached. It knows of each
request what became of it, where the load generators only count."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

_TIMEOUT_S = 20
#: A client that does not care for Retry-After, but takes a breath: refusals are not what is measured.
_REFUSED_PAUSE_S = 0.01
_UNREACHABLE_PAUSE_S = 0.002


class Feed:
    """Counts of requests and bytes of bodies; `lost` are those whose outcome is unknown. Times are of
    `time.monotonic`."""

    def __init__(self, url: str, bodies: Iterable[bytes], connections: int = 8) -> None:
        self._address = urlsplit(url)
        self._bodies = itertools.cycle(bodies)
        self._connections = connections
        self._lock = threading.Lock()
        self.ok = self.ok_bytes = self.refused = self.lost = 0
        self.first_ok_at: float | None = None
        self.last_ok_at = 0.0
        self.refused_from: float | None = None
        #: Of the last refusal: the status, Retry-After, and what was said.
        self.refusal: tuple[int, str, str] | None = None

    def run(self, enough: Callable[[], bool]) -> None:
        """Returns when `enough`, which is asked before each request."""
        with ThreadPoolExecutor(self._connections) as threads:
            for done in [threads.submit(self._send, enough) for _ in range(self._connections)]:
                done.result()

    def _send(self, enough: Callable[[], bool]) -> None:
        connection = http.client.HTTPConnection(self._address.netloc, timeout=_TIMEOUT_S)
        try:
            while not enough():
                with self._lock:
                    body = next(self._bodies)
                try:
                    connection.request("POST", self._address.path, body, {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    said = answer.read()
                except ConnectionRefusedError:
                    connection.close()
                    time.sleep(_UNREACHABLE_PAUSE_S)  # nothing was sent
                except (OSError, http.client.HTTPException):
                    connection.close()
                    with self._lock:
                        self.lost += 1
                else:
                    self._note(answer, body, said)
                    if answer.status != 200:
                        time.sleep(_REFUSED_PAUSE_S)
        finally:
            connection.close()

    def _note(self, answer: http.client.HTTPResponse, body: bytes, said: bytes) -> None:
        now = time.monotonic()
        with self._lock:
            if answer.status == 200:
                self.ok += 1
                self.ok_bytes += len(body)
                self.first_ok_at = self.first_ok_at or now
                self.last_ok_at = now
            else:
                self.refused += 1
                self.refused_from = self.refused_from or now
                self.refusal = answer.status, answer.getheader("Retry-After") or "", said.decode(errors="replace")


def fill(url: str, bodies: Sequence[bytes], size_bytes: int, deadline_s: float) -> Feed:
    """Until so many bytes were answered with 200. Raises RuntimeError if that takes longer, or one is not."""
    feed, ends_at = Feed(url, bodies), time.monotonic() + deadline_s
    feed.run(lambda: feed.ok_bytes >= size_bytes or bool(feed.refused or feed.lost) or time.monotonic() > ends_at)
    if feed.refused or feed.lost or feed.ok_bytes < size_bytes:
        raise RuntimeError(
            f"{feed.ok_bytes:,} of {size_bytes:,} bytes were taken; {feed.lost} requests were lost, {feed.refusal}"
        )
    return feed
