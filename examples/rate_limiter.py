"""A rate limiter: at most so many requests per key and window, counted in one place.

    penstock serve --app examples/rate_limiter.py
    curl -X POST http://127.0.0.1:8787/objects/RateLimiter/user-42/take

Each key is an object of its own, so a million keys limit each other not at all. The answer to a request that was
let through leaves only when its count is durable: no restart gives anybody their quota twice.
"""

from typing import Any

from penstock import AlarmInfo, Context, DurableObject, NotFound, Request, Response

#: What every object is constructed with.
env = {"requests_max": 5, "window_ms": 60_000}


class RateLimiter(DurableObject[dict[str, int]]):
    """The requests of one key in the window that ends now."""

    public = True  # no token is needed: put your own check into `fetch`, or keep the default

    def __init__(self, ctx: Context, env: dict[str, int]) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS taken (at_ms INTEGER NOT NULL)")
        self.sql.exec("CREATE INDEX IF NOT EXISTS taken_by_time ON taken (at_ms)")

    async def fetch(self, request: Request) -> Response:
        if (request.method, request.path) != ("POST", "/take"):
            raise NotFound("POST …/take takes one request of the key's quota.")
        retry_ms = self.take()
        if retry_ms == 0:
            return Response.json({"allowed": True})
        seconds = -(-retry_ms // 1000)
        return Response.json({"allowed": False}, 429, {"retry-after": str(seconds)})

    def take(self) -> int:
        """Take one request: 0 if it is allowed, else the milliseconds until one will be."""
        now_ms = self.ctx.clock.now_ms()
        self.forget(now_ms)
        taken, first_ms = self.one("SELECT count(*), min(at_ms) FROM taken")
        if taken >= self.env["requests_max"]:
            return max(1, int(first_ms) + self.env["window_ms"] - now_ms)
        self.sql.exec("INSERT INTO taken VALUES (?1)", now_ms)
        if self.ctx.storage.get_alarm() is None:
            self.ctx.storage.set_alarm(now_ms + self.env["window_ms"])
        return 0

    async def alarm(self, info: AlarmInfo) -> None:
        """A key that is used no more leaves nothing behind."""
        self.forget(self.ctx.clock.now_ms())
        [last_ms] = self.one("SELECT max(at_ms) FROM taken")
        if last_ms is not None:
            self.ctx.storage.set_alarm(int(last_ms) + self.env["window_ms"])

    def forget(self, now_ms: int) -> None:
        self.sql.exec("DELETE FROM taken WHERE at_ms <= ?1", now_ms - self.env["window_ms"])

    def one(self, query: str) -> tuple[Any, ...]:
        return self.sql.exec(query).one()
