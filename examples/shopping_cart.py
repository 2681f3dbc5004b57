"""A shopping cart that reserves what is in it, from an inventory per product, and gives it back when that fails.

    penstock serve --app examples/shopping_cart.py
    curl -H "Authorization: Bearer $(penstock token)" -X PUT localhost:8787/objects/Inventory/tea -d '{"stock": 3}'
    curl -H "Authorization: Bearer $(penstock token)" -X POST localhost:8787/objects/Cart/cart-1 -d '{"tea": 2}'

The cart notes what it will do, does it, and undoes it if a part fails; if it dies half-way, its alarm does that.
"""

from penstock import AlarmInfo, Conflict, Context, DurableObject, Invalid, Request, Response

CHECKOUT_MS_MAX = 600_000  # a checkout that has not ended by then never will


class Inventory(DurableObject[None]):
    """The stock of one product, and how much of it each cart has reserved."""

    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS amounts (cart TEXT PRIMARY KEY, amount INTEGER NOT NULL)")

    async def fetch(self, request: Request) -> Response:
        if request.method == "PUT":  # the stock is what belongs to no cart
            self.sql.exec("INSERT OR REPLACE INTO amounts VALUES ('', ?1)", request.json()["stock"])
        return Response.json({"left": self.left()})

    def left(self) -> int:
        return int(self.sql.exec("SELECT total(iif(cart = '', amount, -amount)) FROM amounts").one()[0])

    def reserve(self, cart: str, amount: int) -> None:
        """Reserve so much for a cart, and not more if asked twice. Raises `Conflict` if there is too little."""
        self.release(cart)
        if amount < 1:
            raise Invalid("Reserve 1 or more.")
        if amount > self.left():
            raise Conflict(f"There are only {self.left()} of {self.ctx.id.name} left.")
        self.sql.exec("INSERT INTO amounts VALUES (?1, ?2)", f"cart {cart}", amount)

    def release(self, cart: str) -> None:
        self.sql.exec("DELETE FROM amounts WHERE cart = ?1", f"cart {cart}")


class Cart(DurableObject[None]):
    """What one customer buys: its lines are `reserving` until all of them are `reserved`."""

    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS lines (product TEXT PRIMARY KEY, amount, state)")

    async def fetch(self, request: Request) -> Response:
        if request.method == "POST":
            await self.check_out(request.json())
        rows = self.sql.exec("SELECT product, amount, state FROM lines ORDER BY product")
        return Response.json([{"product": row[0], "amount": row[1], "state": row[2]} for row in rows])

    async def check_out(self, wanted: dict[str, int]) -> None:
        if list(self.sql.exec("SELECT 1 FROM lines")):
            raise Conflict("This cart is checked out already.")
        for product, amount in wanted.items():
            self.sql.exec("INSERT INTO lines VALUES (?1, ?2, 'reserving')", product, amount)
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + CHECKOUT_MS_MAX)
        try:
            for product, amount in wanted.items():
                await self.ctx.namespace("Inventory").get_by_name(product).reserve(self.ctx.id.name, amount)
        except Exception:
            await self.give_back()  # if that fails too, the alarm does it
            raise
        self.sql.exec("UPDATE lines SET state = 'reserved'")
        self.ctx.storage.delete_alarm()

    async def give_back(self) -> None:
        for (product,) in list(self.sql.exec("SELECT product FROM lines WHERE state = 'reserving'")):
            await self.ctx.namespace("Inventory").get_by_name(product).release(self.ctx.id.name)
            self.sql.exec("DELETE FROM lines WHERE product = ?1", product)

    async def alarm(self, info: AlarmInfo) -> None:
        await self.give_back()
