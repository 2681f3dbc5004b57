"""Transforms in the simulator: the functions run in line, and what a worker can do wrong is drawn."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from penstock.apps.application import Application
from penstock.apps.transform import Transform
from penstock.apps.transform_call import decode_records, raised, take_result
from penstock.apps.transform_run import Call, CallResult, Died, Failed, TransformOutcome, TransformRun
from penstock.apps.transforms import concluded, find_transform, overdue
from penstock.base.clock import Clock
from penstock.base.errors import Unavailable
from penstock.base.rng import Rng


@dataclass(slots=True)
class TransformFaults:
    """What is wrong with the workers now. One for all executors; may be changed at any time. The probabilities are
    those of one call of a function, except that of `unavailable`, which is of one run."""

    #: That no worker can be started.
    unavailable: float = 0.0
    #: That the function raises. A list is halved then; a record alone is dead.
    fail: float = 0.0
    #: That the worker dies in the call. A list is halved then; a record alone is dead at the second time.
    crash: float = 0.0
    #: That the call takes longer than its deadline: its whole list is dead.
    overdue: float = 0.0
    #: Shortest and longest duration of every other call.
    work_ms: tuple[int, int] = (0, 5)
    #: Calls that went wrong by one of these.
    faults: int = 0


class SimTransforms:
    """Implements `penstock.pipelines.transforms.Transforms` for one executor's life."""

    def __init__(self, application: Application, clock: Clock, rng: Rng, faults: TransformFaults) -> None:
        self._application = application
        self._clock = clock
        self._rng = rng
        self._faults = faults

    def names(self) -> list[str]:
        return sorted(self._application.transforms)

    def version(self, name: str) -> str:
        find_transform(self._application, name)
        return self._application.version

    async def run(self, name: str, ndjson: bytes) -> TransformOutcome:
        transform = find_transform(self._application, name)
        if self._happens(self._faults.unavailable):
            raise Unavailable("The worker for transforms cannot be started (simulated).")
        run = TransformRun(ndjson, transform.batch_records_max)
        while (call := run.next()) is not None:
            run.on(await self._called(transform, call))
        return concluded(transform, run)

    async def _called(self, transform: Transform, call: Call) -> CallResult:
        if self._happens(self._faults.overdue):
            await self._clock.sleep_ms(transform.deadline_ms)
            return overdue(transform)
        await self._clock.sleep_ms(self._rng.randint(*self._faults.work_ms))
        if self._happens(self._faults.crash):
            return Died("The transform's process died (simulated).")
        if self._happens(self._faults.fail):
            return Failed("error", "SimulatedError")
        try:
            result: object = transform.function(decode_records(call.ndjson))
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:  # noqa: BLE001 - as in a worker; but a cancelled executor stays cancelled
            return raised(error, self._folder)
        return take_result(result, call.output_bytes_max)

    @property
    def _folder(self) -> Path:
        """Where the user's code is; nowhere, if the application was put together by hand."""
        origin = self._application.origin
        return Path("/dev/null") if origin is None else Path(origin.folder)

    def _happens(self, probability: float) -> bool:
        happens = self._rng.random() < probability
        self._faults.faults += happens
        return happens
