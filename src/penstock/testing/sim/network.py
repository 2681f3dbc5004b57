"""Calls between simulated executors: late, lost, refused, but in order.

As on a Unix socket, what one executor sends to another arrives in the order in which it was sent, and both sides
notice when the other dies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from penstock.base.errors import Unavailable
from penstock.base.limits import CALL_TIMEOUT_MS
from penstock.base.rng import Rng
from penstock.storage.channel import Channel, Frame
from penstock.storage.transport import ChannelHandler, Handler, lost_sibling, no_answer, no_streams
from penstock.testing.sim.loop import VirtualLoop


class SimNetwork:
    """The wires between the executors, which outlive them. The probabilities may be changed at any time."""

    def __init__(self, rng: Rng, loop: VirtualLoop, *, delay_ms: tuple[float, float] = (0.05, 2.0)) -> None:
        self.rng = rng
        self.loop = loop
        #: Shortest and longest way of one message.
        self.delay_ms = delay_ms
        #: Probability that a request never arrives; the caller waits for its timeout.
        self.lose_request = 0.0
        #: Probability that a request is carried out and its answer never arrives.
        self.lose_answer = 0.0
        self._down: set[int] = set()
        self._transports: dict[int, SimTransport] = {}
        self._wires: dict[tuple[int, int], _Wire] = {}

    def transport(self, slot: int, tasks: asyncio.TaskGroup) -> SimTransport:
        """An executor's end, for its life; the one that `slot` had before is dead. Requests that arrive are
        answered in `tasks`."""
        before = self._transports.get(slot)
        if before is not None:
            before.close()
        transport = self._transports[slot] = SimTransport(self, slot, tasks)
        return transport

    def set_down(self, slot: int, *, down: bool = True) -> None:
        """Cut an executor off, or connect it again. It goes on running."""
        if not down:
            self._down.discard(slot)
            return
        self._down.add(slot)
        self.break_calls(slot)

    def target(self, source: int, slot: int) -> SimTransport | None:
        """Who answers for `slot`, None if nobody that `source` can reach."""
        transport = self._transports.get(slot)
        if transport is None or not transport.serves or slot in self._down or source in self._down:
            return None
        return transport

    def send(self, source: int, slot: int, deliver: Callable[[], None]) -> None:
        """Call `deliver` when a message from `source` has arrived at `slot`."""
        wire = self._wires.get((source, slot))
        if wire is None:
            wire = self._wires[source, slot] = _Wire(self.loop)
        wire.send(self.rng.uniform(*self.delay_ms) / 1000, deliver)

    def draw(self, probability: float) -> bool:
        return self.rng.random() < probability

    def break_calls(self, slot: int) -> None:
        """Connections to and from `slot` are lost: calls under way fail."""
        for caller in self._transports.values():
            caller.fail_calls(None if caller.slot == slot else slot)


class _Wire:
    """One direction between two executors."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._free_at = 0.0
        self._under_way: deque[Callable[[], None]] = deque()

    def send(self, delay_s: float, deliver: Callable[[], None]) -> None:
        self._free_at = max(self._free_at, self._loop.time() + delay_s)
        self._under_way.append(deliver)
        # Two timers of the same moment may fire in either order, so they deliver whoever is first in line.
        self._loop.call_at(self._free_at, self._arrive)

    def _arrive(self) -> None:
        self._under_way.popleft()()


class SimTransport:
    """Implements `Transport`, with `serve` and `close` as `UnixTransport` has them."""

    def __init__(self, network: SimNetwork, slot: int, tasks: asyncio.TaskGroup) -> None:
        self.slot = slot
        self._network = network
        self._tasks = tasks
        self._handler: Handler | None = None
        self._channel_handler: ChannelHandler = no_streams
        self._closed = False
        #: Calls under way, by number: whom they asked, and who waits.
        self._calls: dict[int, tuple[int, asyncio.Future[bytes]]] = {}
        #: Calls with streams, by number, and those served, by caller and number.
        self._channels: dict[int, tuple[int, Channel]] = {}
        self._served: dict[tuple[SimTransport, int], Channel] = {}
        self._number = 0

    @property
    def serves(self) -> bool:
        return self._handler is not None and not self._closed

    async def serve(self, handler: Handler, channel_handler: ChannelHandler = no_streams) -> None:
        self._handler = handler
        self._channel_handler = channel_handler

    async def request(self, slot: int, payload: bytes) -> bytes:
        if self._closed or self._network.target(self.slot, slot) is None:
            raise _not_running()
        answer: asyncio.Future[bytes] = self._network.loop.create_future()
        self._number += 1
        number = self._number
        self._calls[number] = slot, answer
        if not self._network.draw(self._network.lose_request):
            self._network.send(self.slot, slot, partial(self._arrived, number, slot, payload))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_MS / 1000):
                return await answer
        except TimeoutError:
            raise no_answer(slot) from None
        finally:
            self._calls.pop(number, None)

    def _arrived(self, number: int, slot: int, payload: bytes) -> None:
        target = self._network.target(self.slot, slot)
        if target is None:
            self._settle(number, _died())
        elif number in self._calls:  # else the connection broke before it was read
            target.answer(self, number, payload)

    def answer(self, caller: SimTransport, number: int, payload: bytes) -> None:
        """Carry out a request that has arrived here."""
        handler = self._handler
        assert handler is not None

        async def handle() -> None:
            result = await handler(payload)
            if self._network.draw(self._network.lose_answer) or self._closed:
                return
            if self._network.target(caller.slot, self.slot) is self:
                self._network.send(self.slot, caller.slot, partial(caller._settle, number, result))

        self._tasks.create_task(handle())

    # -- calls with streams ---------------------------------------------------------------------------------

    def open(self, slot: int, payload: bytes) -> Channel:
        self._number += 1
        number = self._number
        channel = Channel(partial(self._send, slot, number), partial(self._channels.pop, number, None))
        self._channels[number] = slot, channel
        if self._closed or self._network.target(self.slot, slot) is None:
            channel.fail(_not_running())
        elif not self._network.draw(self._network.lose_request):
            self._network.send(self.slot, slot, partial(self._opened, number, slot, payload))
        return channel

    def _opened(self, number: int, slot: int, payload: bytes) -> None:
        target = self._network.target(self.slot, slot)
        if target is not None and number in self._channels:
            target.serve_channel(self, number, payload)

    def serve_channel(self, caller: SimTransport, number: int, payload: bytes) -> None:
        """Carry out a request that has arrived here."""

        def send(frame: Frame, content: bytes) -> None:
            if self._closed or (frame is Frame.ANSWER and self._network.draw(self._network.lose_answer)):
                return
            if self._network.target(caller.slot, self.slot) is self:
                self._network.send(self.slot, caller.slot, partial(caller.arrived, number, frame, content))

        place = caller, number
        channel = self._served[place] = Channel(send, partial(self._served.pop, place, None))
        handler = self._channel_handler

        async def handle() -> None:
            await handler(payload, channel)

        self._tasks.create_task(handle())

    def _send(self, slot: int, number: int, frame: Frame, payload: bytes) -> None:
        """A frame to whom this one has called."""
        if not self._closed and self._network.target(self.slot, slot) is not None:
            self._network.send(self.slot, slot, partial(self._frame_arrived, slot, number, frame, payload))

    def _frame_arrived(self, slot: int, number: int, frame: Frame, payload: bytes) -> None:
        target = self._network.target(self.slot, slot)
        channel = target._served.get((self, number)) if target is not None else None
        if channel is not None:
            channel.on_frame(frame, payload)

    def arrived(self, number: int, frame: Frame, payload: bytes) -> None:
        """A frame from whom this one has called."""
        _, channel = self._channels.get(number, (0, None))
        if channel is not None and not self._closed:
            channel.on_frame(frame, payload)

    def _settle(self, number: int, outcome: bytes | Unavailable) -> None:
        _, answer = self._calls.pop(number, (0, None))
        if answer is None or answer.done() or self._closed:
            return
        if isinstance(outcome, bytes):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)

    def fail_calls(self, slot: int | None) -> None:
        """The connection to `slot` is lost (to everybody, if None)."""
        for number in [n for n, (asked, _) in self._calls.items() if slot is None or asked == slot]:
            self._settle(number, _died())
        lost = [channel for asked, channel in self._channels.values() if slot is None or asked == slot]
        lost += [channel for (caller, _), channel in self._served.items() if slot is None or caller.slot == slot]
        for channel in lost:
            channel.fail(_died())

    def close(self) -> None:
        """The executor is gone. Whoever waits for its answers is told at once; its own callers never are, as there
        is nobody left to tell."""
        if not self._closed:
            self._closed = True
            self._calls.clear()
            self._channels.clear()
            self._served.clear()
            self._network.break_calls(self.slot)


def _not_running() -> Unavailable:
    return lost_sibling("The executor that owns this object is not running; it is being restarted.")


def _died() -> Unavailable:
    return lost_sibling("The executor died before it answered; it is being restarted.")
