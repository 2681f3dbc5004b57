"""An object that does what a test says, inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from penstock.objects import AlarmInfo, DurableObject
from penstock.objects.storage import ObjectStorage

from .world import World, run

Work = Callable[[ObjectStorage], Any]


class Box(DurableObject[SimpleNamespace]):
    async def run(self) -> None:
        try:
            result = self.env.work(self.ctx.storage)
            if inspect.isawaitable(result):
                result = await result
            self.env.result = result
        except Exception as error:
            self.env.error = error
            raise

    async def alarm(self, info: AlarmInfo) -> None:
        """Does what `env.on_alarm` says, and counts."""
        self.env.fired = getattr(self.env, "fired", 0) + 1
        on_alarm = getattr(self.env, "on_alarm", None)
        if on_alarm is not None:
            on_alarm(self.ctx.storage)


async def do(world: World, work: Work, name: str = "a") -> Any:
    """Let the box do `work` and give its result, or raise its error. What the call ends with, if not with that, is
    raised too."""
    world.env.work, world.env.error = work, None
    try:
        await world.stub(Box, name).run()
    except Exception:
        if world.env.error is not None:
            raise world.env.error from None
        raise
    return world.env.result


def in_object(*works: Work) -> Any:
    """Let a box do one work after the other, in steps of their own; gives the result of the last."""

    async def main(world: World) -> Any:
        for work in works:
            result = await do(world, work)
        return result

    return run(main, Box)
