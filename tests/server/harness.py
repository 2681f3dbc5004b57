"""A real server in its own processes: started, watched through its log, ended by signals."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

BUCKET = "my-bucket"
#: Nothing here takes longer; whatever does is stuck.
DEADLINE_S = 20.0

Line = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """One start of `penstock serve`. Its log lines arrive in `log` as they are written; `stray` are the lines that
    are no JSON."""

    def __init__(self, data: Path, *flags: str, executors: int = 2, env: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.log: list[Line] = []
        self.stray: list[str] = []
        self._news = threading.Condition()
        command = [sys.executable, "-m", "penstock", "serve", "--data-dir", str(data), "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--executors", str(executors), *flags],
            env={name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
            | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,))
        self._reader.start()

    def _read(self, output: IO[str]) -> None:
        with output:
            for text in output:
                with self._news:
                    try:
                        self.log.append(json.loads(text))
                    except ValueError:
                        self.stray.append(text)
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    # -- its log ------------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds, which is looked at with each line of the log."""
        with self._news:
            held = self._news.wait_for(lambda: condition() or self.ended, DEADLINE_S)
            assert held and condition(), f"it never came to pass; the log: {self.tail}"

    def lines(self, event: str, **fields: object) -> list[Line]:
        """The lines so far of an event with these fields."""
        return [line for line in self.log if line["event"] == event and fields.items() <= line.items()]

    def wait_for(self, event: str, **fields: object) -> Line:
        """The first such line."""
        self.wait(lambda: bool(self.lines(event, **fields)))
        return self.lines(event, **fields)[0]

    @property
    def tail(self) -> str:
        return "\n".join([*map(str, self.log[-15:]), *self.stray[-30:]])

    # -- its processes ------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def executors(self) -> dict[int, int]:
        """Slots and process ids of those that said they are ready, the last ones of each slot."""
        return {line["executor"]: line["pid"] for line in self.lines("executor_ready")}

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        """Waits for the end."""
        code = self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert not self._reader.is_alive(), "an executor outlived its supervisor"
        return code

    def stop(self) -> None:
        """SIGTERM; it must end well."""
        self.signal(signal.SIGTERM)
        assert self.exit_code() == 0, self.tail

    def clean_up(self) -> None:
        """Whatever still runs is killed. The executors notice the death of their supervisor by themselves."""
        if not self.ended:
            self._process.kill()
        self.exit_code()

    # -- requests -----------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return int(self.wait_for("ready")["url"].rsplit(":", 1)[1])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        with contextlib.closing(self.connect()) as connection:
            return ask(connection, method, path, body, headers)

    @property
    def credentials(self) -> dict[str, str]:
        self.wait_for("ready")
        return tomllib.loads((self.data / "credentials.toml").read_text())

    def control(self, method: str, path: str = "", body: object = None) -> Answer:
        """A request to the pipelines of the account, with its token."""
        credentials = self.credentials
        return self.request(
            method,
            f"/client/v4/accounts/{credentials['account_id']}/pipelines{path}",
            None if body is None else json.dumps(body).encode(),
            Authorization=f"Bearer {credentials['token']}",
        )

    def create(self, name: str = "clicks", shards: int | None = None, **batch: float) -> str:
        """Create a pipeline; gives its id."""
        destination = {"path": {"bucket": BUCKET}, "batch": batch}
        body = {"name": name, "destination": destination, "metadata": {"shards": shards}}
        answer = self.control("POST", "", body)
        assert answer.status == 200, answer
        id: str = answer.json["result"]["id"]
        return id

    def send(self, pipeline: str, *numbers: int) -> Answer:
        """Numbered records, over a new connection: any executor may get it."""
        return self.request("POST", f"/ingest/{pipeline}", numbered(*numbers))

    # -- what is there ------------------------------------------------------------------------------------

    def delivered(self) -> Counter[int]:
        """The numbers in all files of the bucket, and how often each is there."""
        files = (self.data / "buckets" / BUCKET).rglob("*.json.gz")
        return Counter(
            json.loads(line)["n"] for file in files for line in gzip.decompress(file.read_bytes()).splitlines()
        )

    def wait_delivered(self, numbers: set[int]) -> Counter[int]:
        """Until these are in files; gives all that is there."""
        self.wait(lambda: numbers <= self.delivered().keys())
        return self.delivered()

    def drain(self, numbers: set[int], name: str = "clicks") -> Counter[int]:
        """Delete the pipeline, so that it delivers what it holds, and stop; gives all that was delivered."""
        assert self.control("DELETE", f"/{name}").status == 200
        self.wait_delivered(numbers)
        self.stop()
        return self.delivered()


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def numbered(*numbers: int) -> bytes:
    return json.dumps([{"n": number, "event": "page_view"} for number in numbers]).encode()


@dataclass
class Load:
    """Clients that send numbered records, each number once, until they are refused a connection.

    A number is `acked`, or `unknown` when its connection was lost before the end of the answer, or that was 503.
    `broken` is what no client may ever see, `half_answered` what only a kill -9 explains.
    """

    server: Server
    pipeline: str
    first: int = 0
    clients: int = 6
    acked: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    half_answered: set[int] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._news = threading.Condition()
        self._path = f"/ingest/{self.pipeline}"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(client,)) for client in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()

    def wait_acked(self, count: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: len(self.acked) >= count, DEADLINE_S), self.server.tail

    def wait_refused(self) -> None:
        """Until every client was refused a connection."""
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()

    def _send(self, client: int) -> None:
        connection = self.server.connect()
        number = self.first + client
        while not self._stop.is_set():
            number += self.clients
            try:
                connection.connect()
            except OSError:
                return
            try:
                # Two requests over each connection: the second finds it idle, or in use, or closed.
                self._note(number, ask(connection, "POST", self._path, numbered(number)))
                number += self.clients
                self._note(number, ask(connection, "POST", self._path, numbered(number)))
            except http.client.IncompleteRead:
                self.half_answered.add(number)
                self.unknown.add(number)
            except (OSError, http.client.HTTPException):
                self.unknown.add(number)
            finally:
                connection.close()

    def _note(self, number: int, answer: Answer) -> None:
        if answer.status == 200 and answer.json == {"success": True, "result": {"committed": 1}}:
            with self._news:
                self.acked.add(number)
                self._news.notify_all()
            return
        self.unknown.add(number)
        if answer.status != 503 or "retry-after" not in answer.headers:
            self.broken.append(f"{number}: {answer}")


def assert_exactly_once(delivered: Counter[int], acked: set[int], unknown: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """Each acknowledged number once; of those whose answer was lost each at most once; nothing else."""
    assert acked <= delivered.keys(), f"lost: {sorted(acked - delivered.keys())[:20]}"
    assert not [number for number, times in delivered.items() if times > 1], "doubled"
    assert delivered.keys() <= acked | unknown, f"never taken: {sorted(delivered.keys() - acked - unknown)[:20]}"


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_gone(pid: int) -> None:
    """Nothing tells when a process that is not our child ends."""
    ends_at = time.monotonic() + DEADLINE_S
    while not is_gone(pid):
        assert time.monotonic() < ends_at
        time.sleep(0.005)
