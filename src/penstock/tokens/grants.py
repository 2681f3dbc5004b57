"""What a token may do. Pure."""

from __future__ import annotations

from typing import Literal, get_args

from msgspec import Struct

Scope = Literal["pipelines:send", "pipelines:read", "pipelines:write", "objects:read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

#: In the list of a token's pipelines: all of them, those to come included.
EVERY_PIPELINE = "*"


class Grants(Struct, frozen=True):
    """What one token may do, until `expires_at_ms` (wall time) where there is one."""

    scopes: list[Scope]
    #: Names that scopes about pipelines hold for, or `EVERY_PIPELINE`.
    pipelines: list[str]
    expires_at_ms: int | None = None

    def cover(self, scope: Scope, pipeline: str | None = None) -> bool:
        """Whether they allow what needs `scope`, for a pipeline by its name where it is about one. What is about
        pipelines, but not about one by its name (making one, listing all), needs a token for every pipeline."""
        if "admin" in self.scopes:
            return True
        if scope not in self.scopes:
            return False
        return not scope.startswith("pipelines:") or EVERY_PIPELINE in self.pipelines or pipeline in self.pipelines

    def cover_any(self, scope: Scope) -> bool:
        """Whether they have `scope` at all, if only for some pipelines."""
        return "admin" in self.scopes or scope in self.scopes

    def expired(self, now_ms: int) -> bool:
        return self.expires_at_ms is not None and now_ms >= self.expires_at_ms


#: Those of the account's own token, in `credentials.toml`.
ADMIN = Grants(["admin"], [EVERY_PIPELINE])
