"""A reminder service: tell an inbox something at a given time, whatever happens meanwhile.

    penstock serve --app examples/reminders.py
    export AUTH="Authorization: Bearer $(penstock token)"    # in another terminal
    curl -H "$AUTH" http://127.0.0.1:8787/objects/Reminders/ann \
         -d '{"text": "tea is ready", "in_seconds": 180}'
    curl -H "$AUTH" http://127.0.0.1:8787/objects/Inbox/ann

An object has one alarm; it is set to the earliest of many reminders. The alarm is durable: it fires after a
restart, and again if it failed. So a reminder may be delivered twice, and the inbox takes each id once.
"""

from penstock import AlarmInfo, Context, DurableObject, Invalid, Request, Response


class Reminders(DurableObject[None]):
    """What one person wants to be reminded of."""

    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS reminders (id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms, text)")

    async def fetch(self, request: Request) -> Response:
        if request.method == "POST":
            wanted = request.json()
            if not isinstance(wanted, dict) or not isinstance(wanted.get("in_seconds"), (int, float)):
                raise Invalid('Send {"text": "…", "in_seconds": 60}.')
            id = self.remind(str(wanted.get("text", "")), round(wanted["in_seconds"] * 1000))
            return Response.json({"id": id}, 201)
        rows = self.sql.exec("SELECT id, at_ms, text FROM reminders ORDER BY at_ms")
        return Response.json([{"id": id, "at_ms": at_ms, "text": text} for id, at_ms, text in rows])

    def remind(self, text: str, delay_ms: int) -> int:
        at_ms = self.ctx.clock.now_ms() + delay_ms
        [id] = self.sql.exec("INSERT INTO reminders (at_ms, text) VALUES (?1, ?2) RETURNING id", at_ms, text).one()
        self.set_alarm()
        return int(id)

    async def alarm(self, info: AlarmInfo) -> None:
        inbox = self.ctx.namespace("Inbox").get_by_name(str(self.ctx.id.name))
        due = "SELECT id, text FROM reminders WHERE at_ms <= ?1 ORDER BY at_ms"
        for id, text in list(self.sql.exec(due, self.ctx.clock.now_ms())):
            await inbox.deliver(id, text)  # if it raises, the alarm comes again, in 2 s at first
            self.sql.exec("DELETE FROM reminders WHERE id = ?1", id)
        self.set_alarm()

    def set_alarm(self) -> None:
        """The alarm and the rows are written in one transaction, so none is ever without the other."""
        [at_ms] = self.sql.exec("SELECT min(at_ms) FROM reminders").one()
        if at_ms is not None:
            self.ctx.storage.set_alarm(at_ms)


class Inbox(DurableObject[None]):
    """What one person was reminded of."""

    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, text)")

    def deliver(self, id: int, text: str) -> None:
        self.ctx.storage.sql.exec("INSERT OR IGNORE INTO messages VALUES (?1, ?2)", id, text)

    async def fetch(self, request: Request) -> Response:
        rows = self.ctx.storage.sql.exec("SELECT text FROM messages ORDER BY id")
        return Response.json([text for (text,) in rows])
