"""Random programs over durable objects, under faults, against a model.

Each object keeps a journal to which it only ever appends. Programs, drawn from a seed, write to it, wait, call
other objects with programs of their own, set alarms, fail and abort, while a nemesis kills executors, cuts the
power, fills the disk, loses calls and sets the clock wrong. Everybody who learns something of a journal (a client
from a reply or an error, another object from being called) notes it as a sight: this token is at this place. At
the end the model is simple:

    one linear history       every sight is in the one journal that is left: nothing was seen that was not durable
    writes of one step       are all there, next to each other, or none is
    a step that aborted      left nothing
    an alarm that was set    has fired, later in the journal
    what an object gives     is what it was in that step, also if the object has changed it since
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from penstock.base.errors import PenstockError
from penstock.base.limits import Limits
from penstock.base.rng import Rng, seeded_rng
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import ConnectionLost, MachineSettings, SimMachine
from penstock.testing.sim.scenario import Nemesis, ScenarioSettings

#: Every alarm has fired this long after everything was healed: its own time, two retries, and a minute for callers
#: that wait in vain for calls that were lost.
_DRAIN_MS_MAX = 120_000
_DEPTH_MAX = 2


class Sight(Struct, frozen=True, array_like=True):
    """The journal of the object `name` has `token` at `place` (1, 2, ...)."""

    name: str
    place: int
    token: int


class Seen(Struct, frozen=True, array_like=True):
    """What an object tells: what it has seen, its own latest entry at the end; and that entry once more, in a list
    that the object keeps and changes."""

    sights: list[Sight]
    latest: list[Sight]

    @property
    def is_late(self) -> bool:
        """It was copied after the step in which it was given."""
        return self.sights[-1:] != self.latest


class Step(Struct, frozen=True, array_like=True):
    """What a program does next. `kind` is the name of a method of `_Run`; the rest is what some kinds need."""

    kind: str
    token: int = 0
    ms: int = 0
    times: int = 0
    name: str = ""
    steps: list[Step] = []


class ProgramFailed(Exception):
    """Raised by a program. Its text tells what the object had written."""


class Actor(DurableObject[None]):
    """An object that does what it is told."""

    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec(
            "CREATE TABLE IF NOT EXISTS journal (place INTEGER PRIMARY KEY, kind TEXT, token INTEGER,"
            " seen_name TEXT, seen_place INTEGER, seen_token INTEGER)"
        )
        self.sql.exec("CREATE TABLE IF NOT EXISTS mood (id INTEGER PRIMARY KEY, kind TEXT, times INTEGER)")
        #: One sight, in a list that is given away as it is and changes with each entry: whoever gets it must get a
        #: copy, of the moment in which it was given.
        self._latest = [self.sight()]

    async def run(self, steps: list[Step], caller: Seen | None) -> Seen:
        """Run a program. `caller`: what the object tells that calls, if it is one."""
        sights = []
        if caller is not None:
            self.append("late" if caller.is_late else "called", self.ctx.rng.getrandbits(48), caller.sights[0])
        for step in steps:
            sights += await getattr(self, f"_{step.kind}")(step)
            sights.append(self.sight())
        return Seen(sights, self._latest)

    def append(self, kind: str, token: int, seen: Sight | None = None) -> None:
        row = (seen.name, seen.place, seen.token) if seen is not None else (None, None, None)
        self.sql.exec(
            "INSERT INTO journal (kind, token, seen_name, seen_place, seen_token) VALUES (?1, ?2, ?3, ?4, ?5)",
            kind,
            token,
            *row,
        )
        self._latest[0] = self.sight()

    def sight(self) -> Sight:
        row = self.sql.exec("SELECT place, token FROM journal ORDER BY place DESC LIMIT 1").first() or (0, 0)
        return Sight(self.ctx.name, row[0], row[1])

    def journal(self) -> list[tuple[str, int, Sight | None]]:
        """Kind, token and what was seen of the caller, in order."""
        rows = self.sql.exec("SELECT kind, token, seen_name, seen_place, seen_token FROM journal ORDER BY place")
        return [(kind, token, None if name is None else Sight(name, *seen)) for kind, token, name, *seen in rows]

    # -- steps --------------------------------------------------------------------------------------------------

    async def _read(self, step: Step) -> list[Sight]:
        return []

    async def _write(self, step: Step) -> list[Sight]:
        self.append("write", step.token)
        return []

    async def _pair(self, step: Step) -> list[Sight]:
        self.append("first", step.token)
        self.append("second", step.token)
        return []

    async def _sync(self, step: Step) -> list[Sight]:
        await self.ctx.storage.sync()
        return []

    async def _sleep(self, step: Step) -> list[Sight]:
        await self.ctx.clock.sleep_ms(step.ms)
        return []

    async def _call(self, step: Step) -> list[Sight]:
        """Of another object or this one. `times`: whether to go on if it fails. `ms`: whether to write something
        first, so that the call waits at the gate."""
        if step.ms:
            self.append("write", step.token)
        stub = self.ctx.namespace("Actor").get_by_name(step.name)
        try:
            seen: Seen = await stub.run(step.steps, Seen([self.sight()], self._latest))
        except PenstockError:
            if not step.times:
                raise
            return []
        if seen.is_late:
            self.append("late", self.ctx.rng.getrandbits(48))
        return seen.sights

    async def _background(self, step: Step) -> list[Sight]:
        async def work() -> None:
            await self.ctx.clock.sleep_ms(step.ms)
            self.append("write", step.token)

        self.ctx.wait_until(work())
        return []

    async def _block(self, step: Step) -> list[Sight]:
        async def work() -> None:
            await self.ctx.clock.sleep_ms(step.ms)
            self.append("write", step.token)

        await self.ctx.block_concurrency_while(work)
        return []

    async def _alarm(self, step: Step) -> list[Sight]:
        """`name` and `times`: how the handler ends, and how often, before it succeeds."""
        self.append("set", step.token)
        self.sql.exec("INSERT OR REPLACE INTO mood VALUES (0, ?1, ?2)", step.name, step.times)
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + step.ms)
        return []

    async def _fail(self, step: Step) -> list[Sight]:
        self.append("write", step.token)
        sight = self.sight()
        raise ProgramFailed(f"{sight.name} {sight.place} {sight.token}.")

    async def _abort(self, step: Step) -> list[Sight]:
        self.append("aborted", step.token)
        self.ctx.abort("the program says so")

    async def alarm(self, info: AlarmInfo) -> None:
        kind, times = self.sql.exec("SELECT kind, times FROM mood").one()
        if info.retries < times:
            self.append("tried", self.ctx.rng.getrandbits(48))
            if kind == "abort":
                self.ctx.abort("in an alarm")
            raise ProgramFailed("in an alarm")
        self.append("fired", self.ctx.rng.getrandbits(48))


class Programs:
    """Draws programs. Tokens are never drawn twice."""

    def __init__(self, rng: Rng, names: list[str]) -> None:
        self._rng = rng
        self._names = names
        self._token = 0

    def name(self) -> str:
        return self._rng.choice(self._names)

    def program(self, depth: int = 0) -> list[Step]:
        return [self._step(depth) for _ in range(self._rng.randint(1, 4))]

    def _step(self, depth: int) -> Step:
        rng = self._rng
        self._token += 1
        kinds = ["write", "write", "pair", "pair", "read", "sync", "sleep", "alarm", "alarm", "background"]
        if depth < _DEPTH_MAX:
            kinds += ["call"] * 4
        kind = rng.choice(kinds if rng.random() > 0.12 else ["fail", "fail", "abort", "block"])
        return Step(
            kind,
            self._token,
            ms=rng.choice([0, 1, 20, 400]),
            times=rng.choice([0, 1, 2] if kind == "alarm" else [0, 1]),
            name=rng.choice(["fail", "abort"]) if kind == "alarm" else self.name(),
            steps=self.program(depth + 1) if kind == "call" else [],
        )


Journal = list[tuple[str, int, Sight | None]]


@dataclass(slots=True)
class Model:
    """What the outside has learned."""

    sights: list[Sight] = field(default_factory=list)
    #: Replies that told of what was written after them.
    late: int = 0

    def problems(self, journals: dict[str, Journal]) -> list[str]:
        """What is wrong with the journals that are left, in words; empty if nothing is."""
        problems = [f"{self.late} replies tell of what came after them"] if self.late else []
        for name, journal in journals.items():
            problems += _problems_within(name, journal)
        seen = [(sight, "a client") for sight in self.sights]
        for name, journal in journals.items():
            seen += [(sight, name) for _, _, sight in journal if sight is not None]
        for sight, who in seen:
            journal = journals[sight.name]
            if sight.place and (len(journal) < sight.place or journal[sight.place - 1][1] != sight.token):
                problems.append(f"{who} saw token {sight.token} at place {sight.place} of {sight.name}: not there")
        return problems


def _problems_within(name: str, journal: Journal) -> list[str]:
    problems = []
    kinds = [kind for kind, _, _ in journal]
    for i, (kind, token, _) in enumerate(journal):
        if kind == "aborted":
            problems.append(f"{name} has token {token} of a step that was aborted")
        if kind == "late":
            problems.append(f"{name} was told of what came after the call or the reply")
        if kind == "first" and journal[i + 1 : i + 2] != [("second", token, None)]:
            problems.append(f"{name} has half of the pair {token}")
        if kind == "set" and "fired" not in kinds[i:]:
            problems.append(f"{name} has lost the alarm that {token} set")
    tokens = Counter((kind, token) for kind, token, _ in journal)
    problems += [f"{name} has {entry} {times} times" for entry, times in tokens.items() if times > 1]
    return problems


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    """Of one run. `problems` is empty if every promise was kept; `story` is then empty too."""

    seed: int
    digest: str
    replies: int
    errors: int
    entries: int
    faults: dict[str, int]
    problems: list[str]
    story: list[str]


def run_programs(seed: int, settings: ScenarioSettings | None = None) -> ProgramOutcome:
    """One run, in a fraction of a second."""
    settings = settings or ScenarioSettings(duration_ms=1_500, clients=4, fault_pause_ms=(10, 500))
    return run_virtual(lambda loop: _Run(loop, seed, settings).run())


class _Run:
    def __init__(self, loop: VirtualLoop, seed: int, settings: ScenarioSettings) -> None:
        rng = seeded_rng(f"{seed}/programs")
        self._names = [f"actor-{n}" for n in range(rng.randint(2, 5))]
        self._seed = seed
        self._settings = settings
        self._programs = Programs(rng, self._names)
        self._rng = rng
        #: Fewer than there are objects, sometimes: they make room for each other all the time then.
        self._active_max = rng.choice([3, 4, 100])
        limits = Limits(disk_reserve_bytes=64 * 1024)
        self._machine = SimMachine(
            loop, seed, MachineSettings(executors=rng.choice([1, 2]), limits=limits, classes=(Actor,))
        )
        self._model = Model()
        self._replies = self._errors = 0

    async def run(self) -> ProgramOutcome:
        machine = self._machine
        async with machine:
            nemesis = Nemesis(machine, seeded_rng(f"{self._seed}/nemesis"), [self._abort_one])
            clients = [machine.loop.create_task(self._live(n)) for n in range(self._settings.clients)]
            await nemesis.rage(self._settings)
            await nemesis.heal()
            for client in clients:
                await client
            problems = await self._drain()
            machine.power_cut()
            await machine.ready()
            journals = {name: await self._journal(name) for name in self._names}
            problems += self._model.problems(journals)
            machine.trace.add("journals", repr(journals))
            machine.trace.add("disk", machine.disk.operations)
        return ProgramOutcome(
            seed=self._seed,
            digest=machine.trace.digest(),
            replies=self._replies,
            errors=self._errors,
            entries=sum(map(len, journals.values())),
            faults=dict(nemesis.faults),
            problems=problems,
            story=machine.trace.lines(last=40) if problems else [],
        )

    async def _live(self, number: int) -> None:
        """One client: a program after the other."""
        clock, rng = self._machine.clock, seeded_rng(f"{self._seed}/client/{number}")
        end_ms = clock.elapsed_ms() + self._settings.duration_ms
        while clock.elapsed_ms() < end_ms:
            await self._send(f"client-{number}", self._programs.name(), self._programs.program())
            await clock.sleep_ms(rng.randint(*self._settings.client_pause_ms))

    async def _send(self, client: str, name: str, steps: list[Step]) -> None:
        try:
            seen: Seen = await self._call(name, "run", steps, None)
            self._model.sights += seen.sights
            self._model.late += seen.is_late
            self._replies += 1
            outcome = str(len(seen.sights))
        except ConnectionLost:
            self._errors += 1
            outcome = "lost"
        except PenstockError as error:
            self._errors += 1
            outcome = error.message
            self._model.sights += _sights_in(error)
        self._machine.trace.add(client, name, len(steps), outcome)

    async def _call(self, name: str, method: str, *args: Any) -> Any:
        slot = self._rng.randrange(self._machine.settings.executors)
        executor = self._machine.executor(slot)
        if executor is not None:
            executor.node.runtime.active_max = self._active_max
        return await self._machine.run(
            slot, lambda node: getattr(node.runtime.namespace("Actor").get_by_name(name), method)(*args)
        )

    async def _abort_one(self) -> None:
        """One of the nemesis's faults."""
        await self._send("nemesis", self._programs.name(), [Step("abort")])

    async def _drain(self) -> list[str]:
        """Wait until no alarm is pending any more."""
        clock = self._machine.clock
        deadline_ms = clock.elapsed_ms() + _DRAIN_MS_MAX
        while True:
            await clock.sleep_ms(500)
            executors = [self._machine.executor(slot) for slot in range(self._machine.settings.executors)]
            pending = [executor.node.runtime.alarms.pending if executor else None for executor in executors]
            if pending == [0] * len(executors):
                return []
            if clock.elapsed_ms() > deadline_ms:
                return [f"alarms still pending {_DRAIN_MS_MAX} ms after everything was healed: {pending}"]

    async def _journal(self, name: str) -> Journal:
        journal: Journal = await self._call(name, "journal")
        return journal


def _sights_in(error: PenstockError) -> list[Sight]:
    """What the text of a `ProgramFailed` tells."""
    found = re.search(r"ProgramFailed: (\S+) (\d+) (\d+)\.", error.message)
    return [Sight(found[1], int(found[2]), int(found[3]))] if found else []
