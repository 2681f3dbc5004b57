"""What an executor knows of tokens, so that checking one costs a request microseconds.

An answer of the registry is trusted for `TOKEN_TRUSTED_MS_MAX`, counted from before it was asked: so long a revoked
token may still work. Half of that old, an answer that is used is asked for again beside the request.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import structlog

from penstock.base.errors import PenstockError
from penstock.base.limits import TOKEN_MISSING_MS_MAX, TOKEN_TRUSTED_MS_MAX, TOKENS_CACHED_MAX
from penstock.objects import Runtime
from penstock.tokens.grants import Grants
from penstock.tokens.token_registry import TOKEN_REGISTRY

log = structlog.get_logger("penstock.tokens")


@dataclass(slots=True)
class _Known:
    grants: Grants
    asked_ms: int
    asking: bool = False


class TokenCache:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._clock = runtime.ports.clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        #: Hashes that belong to no token, and when that was asked. Apart, so that guesses push out no token.
        self._missing: OrderedDict[str, int] = OrderedDict()

    async def grants(self, sha256: str) -> Grants | None:
        """Those of the token with this hash; None if there is none or it has expired. Raises `Unavailable` when the
        registry must be asked and cannot be."""
        now_ms = self._clock.elapsed_ms()
        known = self._known.get(sha256)
        if known is not None and now_ms - known.asked_ms < TOKEN_TRUSTED_MS_MAX:
            if now_ms - known.asked_ms > TOKEN_TRUSTED_MS_MAX // 2 and not known.asking:
                known.asking = True
                self._runtime.tasks.create_task(self._ask_again(sha256, known))
            grants: Grants | None = known.grants
        elif now_ms - self._missing.get(sha256, -TOKEN_MISSING_MS_MAX) < TOKEN_MISSING_MS_MAX:
            grants = None
        else:
            grants = await self._ask(sha256)
        return None if grants is None or grants.expired(self._clock.now_ms()) else grants

    async def _ask(self, sha256: str) -> Grants | None:
        asked_ms = self._clock.elapsed_ms()
        registry = self._runtime.namespace("TokenRegistry").get_by_name(TOKEN_REGISTRY)
        grants: Grants | None = await registry.grants(sha256)
        if grants is not None:
            self._missing.pop(sha256, None)
            self._known[sha256] = _Known(grants, asked_ms)
            if len(self._known) > TOKENS_CACHED_MAX:
                self._known.popitem(last=False)
        else:
            self._known.pop(sha256, None)
            self._missing[sha256] = asked_ms
            if len(self._missing) > TOKENS_CACHED_MAX:
                self._missing.popitem(last=False)
        return grants

    async def _ask_again(self, sha256: str, known: _Known) -> None:
        try:
            await self._ask(sha256)
        except PenstockError as error:
            log.info("token_not_refreshed", error=error.message)
        finally:
            known.asking = False
