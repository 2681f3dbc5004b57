"""An executor: a process with an event loop that accepts requests and hosts objects.

Its life hangs on two pipes to the supervisor. On the *status* pipe it says `R` when it is ready and `D` when
its requests have drained. The *lifeline* says nothing: when its other end closes, the supervisor wants the
executor to end now (after a drain), or is dead. In both cases there is nothing to lose: whatever was
acknowledged is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import structlog
import uvicorn
import uvloop

from penstock.apps.transforms import WorkerTransforms
from penstock.base.clock import SystemClock
from penstock.base.errors import Fenced, PenstockError, StorageFull, Unavailable
from penstock.base.rng import system_rng
from penstock.http.auth import Account
from penstock.pipelines.query.process import OsQueryProcess
from penstock.server.connection import Connection
from penstock.server.listen import Port
from penstock.server.node import Node
from penstock.server.settings import ServeSettings
from penstock.server.supervision import EXIT_BLOCKED, EXIT_DATA_GONE, EXIT_DISK, EXIT_NOT_NOW, EXIT_START
from penstock.server.watchdog import Watchdog
from penstock.storage.disk import OsDisk
from penstock.storage.object_store import FolderStore
from penstock.storage.offload import Threads
from penstock.storage.ports import Ports
from penstock.storage.relay import LocalRelay
from penstock.storage.s3_store import S3Pool
from penstock.storage.secrets import SecretKey, Secrets
from penstock.storage.transport import UnixTransport

log = structlog.get_logger("penstock.server")

READY = b"R"
DRAINED = b"D"

#: The supervisor blocks them before it forks; an executor unblocks them when it can act on them.
STOP_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT))

#: How long a thread may keep the GIL while the loop wants it. CPython's 5 ms would show in every latency while a
#: file is being made beside the loop.
_SWITCH_INTERVAL_S = 0.0005
#: Cyclic garbage is rare here, and a young collection every 700 allocations costs a tenth of the throughput.
_GC_THRESHOLD = 50_000


@dataclass(frozen=True, slots=True)
class ExecutorPlace:
    """What one executor is told by its supervisor."""

    slot: int
    settings: ServeSettings
    account: Account
    secret_keys: Sequence[SecretKey]
    port: Port
    sockets_folder: str
    #: Of each of the application's classes, where its objects are.
    namespaces: dict[str, str]
    lifeline: int
    status: int
    #: How many executors there were in the slot before.
    restarts: int


def run_executor(place: ExecutorPlace) -> int:
    """Run until the supervisor says otherwise; gives the exit code."""
    if not place.settings.data_dir.is_dir():
        log.critical("data_dir_gone", data_dir=str(place.settings.data_dir))
        return EXIT_DATA_GONE
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(place))
    return 0


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us and a word when it listens."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(place: ExecutorPlace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(place.lifeline, stop.set)
    watchdog = Watchdog(place.settings.blocked_seconds_max, _blocked)
    watchdog.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(_live(place, tasks, watchdog))
            await stop.wait()
            loop.remove_reader(place.lifeline)
            if not life.done():
                # The supervisor is dead: end as in a crash, quickly, so that a new server can take over.
                log.error("supervisor_lost")
                os._exit(1)
            await life.result().stop()
            raise _Ended
    except* _Ended:
        pass
    finally:
        watchdog.stop()


class _Ended(Exception):
    """Ends the task group, with the background tasks in it."""


async def _live(place: ExecutorPlace, tasks: asyncio.TaskGroup, watchdog: Watchdog) -> Node:
    """Start, serve until SIGTERM, drain. What is left to do then is to stop the node."""
    node, transport = _build(place, tasks, watchdog)
    try:
        await node.start()
    except PenstockError as error:
        _not_started(error)
    await transport.serve(node.answer, node.runtime.answer_streams)
    config = uvicorn.Config(
        node.app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(place.settings.drain_seconds)),
    )

    def on_listening() -> None:
        # Not before: uvicorn, asked to exit while it starts, leaves the sockets open that it has just opened.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        os.write(place.status, READY)

    server = _Server(config, on_listening)

    def drain() -> None:
        node.drain()
        server.should_exit = True

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drain)
    await server.serve(sockets=[place.port.listen()])
    log.info("drained")
    os.write(place.status, DRAINED)
    return node


def _build(place: ExecutorPlace, tasks: asyncio.TaskGroup, watchdog: Watchdog) -> tuple[Node, UnixTransport]:
    folder = str(place.settings.data_dir.absolute())
    clock, disk, offload = SystemClock(), OsDisk(folder), Threads()
    relay = LocalRelay(offload, clock, _fatal)
    tasks.create_task(relay.run())
    secrets = Secrets(place.secret_keys, system_rng())
    transport = UnixTransport(place.sockets_folder, place.slot, tasks)
    ports = Ports(
        clock=clock,
        rng=system_rng(),
        disk=disk,
        offload=offload,
        relay=relay,
        transport=transport,
        buckets=FolderStore(disk, offload, f"{folder}/buckets", f"{folder}/unfinished"),
        s3=S3Pool(secrets, offload),
        secrets=secrets,
    )
    node = Node(
        ports,
        folder,
        place.account,
        place.settings.limits,
        relay.statistics,
        slot=place.slot,
        executors=place.settings.executors,
        tasks=tasks,
        on_fatal=_fatal,
        application=place.settings.application,
        namespaces=place.namespaces,
        transforms=WorkerTransforms(
            place.settings.application,
            tasks,
            clock,
            memory_bytes_max=place.settings.limits.transform_memory_bytes_max,
        ),
        blocked_seconds=lambda: watchdog.blocked_seconds,
        restarts=place.restarts,
        start_query_process=OsQueryProcess.start,
    )
    return node, transport


def _not_started(error: PenstockError) -> NoReturn:
    if isinstance(error, Fenced):
        _fatal(error)
    log.error("executor_not_started", error=error.message)
    sys.stderr.flush()
    os._exit(EXIT_NOT_NOW if isinstance(error, (StorageFull, Unavailable)) else EXIT_START)


def _blocked() -> NoReturn:
    """The loop will not come back by itself. As in a crash nothing is lost: what was acknowledged is durable."""
    sys.stderr.flush()
    os._exit(EXIT_BLOCKED)


def _fatal(error: PenstockError) -> NoReturn:
    """Nothing can be made durable any more: not one more answer may leave."""
    log.critical("fenced", error=error.message)
    sys.stderr.flush()
    os._exit(EXIT_DISK)
