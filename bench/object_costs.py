"""What objects cost beside their calls: to exist, to be in memory, to start, to have an alarm."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path

import apsw

from bench import processes
from bench.bare import open_with_a_row
from bench.executor import Woken, active_possible, executor, sibling
from bench.object_calls import VALUE, at_once, load, quantile_ms
from penstock.base.clock import SystemClock
from penstock.base.limits import ALARMS_RUNNING_MAX
from penstock.objects import Runtime, Stub
from penstock.objects.identity import ObjectId

_LOOKS = 200
_FAR_MS = 30 * 24 * 3_600_000
#: In memory at once while alarms wake objects that were not. (To close what is left at the end is not measured.)
_WOKEN_ACTIVE_MAX = 1_000
_AS_MANY = "bare: 64 writers of as many databases as calls are spread over"
#: How long it takes to set an alarm, at most: for when all are set they are due.
_SET_MS = 2


@dataclass(frozen=True, slots=True)
class Figure:
    what: str
    value: float
    unit: str
    #: The same of the bare statements (or of what the remark says), in the same unit.
    baseline: float | None = None
    #: More of `value` is worse.
    is_cost: bool = True
    remark: str = ""

    @property
    def multiple(self) -> float | None:
        """What it costs, as a multiple of the baseline."""
        if not self.baseline:
            return None
        return self.value / self.baseline if self.is_cost else self.baseline / self.value


def _stubs(runtime: Runtime, stem: str, number: int) -> list[Stub]:
    namespace = runtime.namespace("Notes")
    return [namespace.get_by_name(f"{stem}-{n}") for n in range(number)]


# -- existing ---------------------------------------------------------------------------------------------


async def make_existing(folder: Path, number: int) -> int:
    """`existing-0`, `existing-1`, ..., each with a row and an alarm that is due, as copies of one that was started
    and closed; none has an entry in the index of alarms. Gives the bytes of one."""
    model = ObjectId("Notes", "model")
    async with executor(folder) as runtime:
        stub = runtime.namespace("Notes").get_by_name("model")
        await stub.write(VALUE)
        await stub.wake_at(SystemClock().now_ms() + _FAR_MS)
    path = _path(folder, model)
    _make_anonymous(path)
    data = path.read_bytes()
    path.unlink()
    for n in range(number):
        copy = _path(folder, ObjectId("Notes", f"existing-{n}"))
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(data)
    _write_index(folder, [])
    return len(data)


def _path(folder: Path, id: ObjectId) -> Path:
    return folder / "objects" / id.namespace / id.key[:2] / f"{id.key}.db"


def _make_anonymous(path: Path) -> None:
    """Its copies are given their names when they start."""
    sql = apsw.Connection(str(path))
    sql.execute("DELETE FROM _penstock_meta WHERE key IN ('id', 'name')")
    sql.execute("UPDATE _penstock_alarm SET at_ms = 1")
    sql.pragma("journal_mode", "delete")
    sql.close()


def _write_index(folder: Path, rows: Sequence[tuple[str, int]]) -> None:
    """Make (name, time) the only entries of a closed index."""
    sql = apsw.Connection(str(folder / "alarms" / "0.db"))
    with sql:
        sql.execute("DELETE FROM alarms")
        keys = ((ObjectId("Notes", name).key, name, at_ms) for name, at_ms in rows)
        columns = "namespace, key, name, at_ms, wake_ms, system"
        sql.executemany(f"INSERT INTO alarms ({columns}) VALUES ('Notes', ?1, ?2, ?3, ?3, 0)", keys)
    sql.close()


def _start(folder: Path) -> tuple[float, int]:
    """Seconds that the start of an executor takes, and its memory in bytes, in a process of its own."""
    with sibling(folder, active_max=1) as process:
        return process.start_s, processes.memory_bytes([process.pid])


def existing(empty: Path, full: Path, number: int, each_bytes: int) -> list[Figure]:
    _start(empty)  # makes its files
    (bare_s, bare_bytes), (full_s, full_bytes) = _start(empty), _start(full)
    what = f"with {number:,} existing objects"
    return [
        Figure(f"start {what}", full_s * 1e3, "ms", bare_s * 1e3, remark="bare: with none"),
        Figure(f"memory {what}", full_bytes / 1e6, "MB", bare_bytes / 1e6, remark="bare: with none"),
        Figure("disk of an existing object", each_bytes / 1024, "KiB", remark="one row, an alarm, who it is"),
    ]


# -- active -----------------------------------------------------------------------------------------------


#: Executors that hold the objects: as many as a machine with two cores has. One process may not open the files of
#: 10,000 objects where the limit is 20,000.
_HOSTS = 2


async def memory(folder: Path, numbers: Sequence[int]) -> list[Figure]:
    """Of executors in processes of their own that are given ever more active objects."""
    bare_mb = await asyncio.to_thread(_bare_memory_mb, folder.with_name("active-bare"), numbers[0])
    figures, active = [], 0
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(sibling(folder, slot=slot, executors=_HOSTS + 1, active_max=max(numbers)))
            for slot in range(1, _HOSTS + 1)
        ]
        pids = [host.pid for host in hosts]
        before = processes.memory_bytes(pids)
        async with executor(folder, slot=0, executors=_HOSTS + 1) as runtime:
            stubs = _remote_stubs(runtime)
            for number in numbers:
                possible = _HOSTS * active_possible(number // _HOSTS)
                await at_once([partial(next(stubs).write, VALUE) for _ in range(possible - active)])
                active = possible
                mb = (processes.memory_bytes(pids) - before) / 1e6
                figures.append(_memory_figure(number, possible, mb, bare_mb / numbers[0] * possible))
    return figures


def _remote_stubs(runtime: Runtime) -> Iterator[Stub]:
    """Of objects on each host in turn."""
    return chain.from_iterable(zip(*(_stubs_on(runtime, slot) for slot in range(1, _HOSTS + 1)), strict=True))


def _stubs_on(runtime: Runtime, slot: int) -> Iterator[Stub]:
    namespace = runtime.namespace("Notes")
    return (stub for n in count() if (stub := namespace.get_by_name(f"active-{n}")).slot == slot)


def _bare_memory_mb(folder: Path, number: int) -> float:
    """Of as many bare databases, in a process of its own."""
    folder.mkdir()
    output = folder / "log"
    process = processes.start([sys.executable, "-m", "bench.bare", str(folder), str(number)], output)
    process.wait()
    return float(output.read_text())


def _memory_figure(wanted: int, active: int, mb: float, bare_mb: float) -> Figure:
    remark = f"{mb * 1e3 / active:.0f} KB each"
    if active < wanted:
        remark += f"; {wanted:,} were asked for, but the processes may open no more files"
    return Figure(f"memory of {active:,} active objects", mb, "MB", bare_mb, remark=remark)


# -- activation -------------------------------------------------------------------------------------------


async def activation(folder: Path, bare_folder: Path, number: int) -> list[Figure]:
    """First calls, one after the other."""
    async with executor(folder) as runtime:  # a copy's very first start writes its name
        await at_once([partial(stub.read, 1) for stub in _stubs(runtime, "existing", number)])
    new_s: list[float] = []
    found_s: list[float] = []
    bare_s: list[float] = []
    bare_found_s: list[float] = []
    async with executor(folder) as runtime:
        for new, found in zip(_stubs(runtime, "new", number), _stubs(runtime, "existing", number), strict=True):
            path = bare_folder / f"{len(new_s)}.db"
            bare_s.append(await _open_bare_s(path))
            bare_found_s.append(await _open_bare_s(path))
            new_s.append(await _took_s(partial(new.read, 1)))
            found_s.append(await _took_s(partial(found.read, 1)))
    sides = (("a new object", new_s, bare_s), ("an existing object", found_s, bare_found_s))
    return [
        Figure(f"first call to {what}, {name}", quantile_ms(took, part), "ms", quantile_ms(bare, part))
        for what, took, bare in sides
        for name, part in (("median", 0.5), ("p99", 0.99))
    ]


async def _open_bare_s(path: Path) -> float:
    """In a thread, as activations are, and closed again, so that the next one finds no log."""
    started = time.perf_counter()
    sql = await asyncio.get_running_loop().run_in_executor(None, open_with_a_row, path)
    took_s = time.perf_counter() - started
    sql.close()
    return took_s


async def _took_s(call: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await call()
    return time.perf_counter() - started


# -- alarms -----------------------------------------------------------------------------------------------


async def alarms_in_memory(folder: Path, active: int, seconds: float, bare_per_s: float) -> list[Figure]:
    """Objects in memory set alarms for a far day, then all for the same moment."""
    far_ms = SystemClock().now_ms() + _FAR_MS
    woken = Woken()
    async with executor(folder, woken=woken) as runtime:
        stubs = _stubs(runtime, "pending", active_possible(active))
        await at_once([partial(stub.wake_at, far_ms) for stub in stubs])
        return [
            await _alarms_set(stubs, count(far_ms + 1), "later", seconds, bare_per_s),
            await _alarms_set(stubs, count(far_ms - 1, -1), "earlier", seconds, bare_per_s),
            await _alarms_due_in_memory(stubs, woken, bare_per_s),
        ]


async def _alarms_set(
    stubs: Sequence[Stub], times_ms: Iterator[int], moved: str, seconds: float, bare_per_s: float
) -> Figure:
    calls = (partial(stub.wake_at, at_ms) for at_ms in times_ms for stub in stubs)
    ran = await load(calls, 64, seconds, (), gives_way=False)
    what = f"alarms moved {moved}, spread over {len(stubs):,} objects in memory"
    remark = _AS_MANY + ("; in the index first, then in the object" if moved == "earlier" else "")
    return Figure(what, ran.per_s, "/s", bare_per_s, is_cost=False, remark=remark)


async def _alarms_due_in_memory(stubs: Sequence[Stub], woken: Woken, bare_per_s: float) -> Figure:
    after_ms = 500 + _SET_MS * len(stubs)
    due_s = time.perf_counter() + after_ms / 1e3
    due_ms = SystemClock().now_ms() + after_ms
    woken.expected = len(stubs)
    await at_once([partial(stub.wake_at, due_ms) for stub in stubs])
    due_s = max(due_s, time.perf_counter())
    await woken.all()
    took_s = time.perf_counter() - due_s
    return _due_figure(f"{len(stubs):,} alarms due at once, objects in memory", len(stubs), took_s, bare_per_s)


async def alarms_due(folder: Path, number: int, bare_per_s: float) -> Figure:
    """Of existing objects none of which is in memory: each is started, and for most one is closed."""
    _write_index(folder, [(f"existing-{n}", 1) for n in range(number)])
    woken = Woken()
    woken.expected = number
    started = time.perf_counter()
    async with executor(folder, woken=woken, active_max=_WOKEN_ACTIVE_MAX):
        await woken.all()
        took_s = time.perf_counter() - started
    return _due_figure(f"{number:,} alarms due at once, objects not in memory", number, took_s, bare_per_s)


def _due_figure(what: str, number: int, took_s: float, bare_per_s: float) -> Figure:
    remark = f"{_AS_MANY}; all had run after {took_s:.2f} s, {ALARMS_RUNNING_MAX} at a time"
    return Figure(what, number / took_s, "/s", bare_per_s, is_cost=False, remark=remark)


async def look(folder: Path, pending: int) -> Figure:
    """One look for what is due, with so many alarms pending and with few."""
    far_ms = SystemClock().now_ms() + _FAR_MS
    took = []
    for number in (ALARMS_RUNNING_MAX, pending):
        took.append(await _look_us(folder, [(f"pending-{n}", far_ms + n) for n in range(number)]))
    remark = f"bare: with {ALARMS_RUNNING_MAX} pending, as many as one look fires at most"
    return Figure(f"one look for due alarms, {pending:,} pending", took[1], "µs", took[0], remark=remark)


async def _look_us(folder: Path, entries: Sequence[tuple[str, int]]) -> float:
    _write_index(folder, entries)
    async with executor(folder) as runtime:
        took = []
        for _ in range(_LOOKS):
            started = time.perf_counter()
            runtime.alarms._fire_due(SystemClock().now_ms())
            took.append(time.perf_counter() - started)
            await asyncio.sleep(0)
        return quantile_ms(took, 0.5) * 1e3
