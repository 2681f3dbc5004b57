"""Requests that are tried again until they are answered or their time is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.base.clock import Clock
from penstock.base.errors import Invalid, PenstockError, Unavailable
from penstock.base.rng import Rng
from penstock.client.answers import Answer, error_of
from penstock.client.ports import NoAnswer, Transport
from penstock.client.retry import is_retryable, retry_after_ms, wait_ms


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None


class Requests:
    """One transport, and the patience around it."""

    def __init__(self, transport: Transport, clock: Clock, rng: Rng, request_ms_max: int) -> None:
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._request_ms_max = request_ms_max

    async def ask(self, request: Request, give_up_ms: int) -> Answer:
        """The answer of status 2xx; every try sends the same bytes.

        Raises the error of any other answer or, once `give_up_ms` (elapsed time) is reached or the next try would
        come after it, the last that went wrong.
        """
        failures = 0
        problem: PenstockError = Unavailable(f"There was no time left to ask {request.url}.")
        while (left_ms := give_up_ms - self._clock.elapsed_ms()) > 0:
            after_ms: int | None = None
            try:
                answer = await self._transport.request(
                    request.method,
                    request.url,
                    request.headers,
                    request.body,
                    min(left_ms, self._request_ms_max),
                )
            except NoAnswer as error:
                if error.hopeless:
                    raise Invalid(error.message) from error
                problem = Unavailable(error.message)
            else:
                if 200 <= answer.status < 300:
                    return answer
                now_ms = self._clock.now_ms()
                problem = error_of(answer, request.url, now_ms)
                if not is_retryable(answer.status):
                    raise problem
                after_ms = retry_after_ms(answer.headers.get("retry-after"), now_ms)
            failures += 1
            pause_ms = wait_ms(failures, after_ms, self._rng)
            if self._clock.elapsed_ms() + pause_ms >= give_up_ms:
                break
            await self._clock.sleep_ms(pause_ms)
        raise problem
