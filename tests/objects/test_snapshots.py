"""What leaves an object is what it was when it was made, also if it has waited at the output gate and the object
has gone on meanwhile: else it would tell of writes that are not durable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from penstock.objects import Context, DurableObject, Stub

from .world import World, error_of, key_of, run, start, turns


class Cart(DurableObject[SimpleNamespace]):
    """Keeps a mirror of its rows in memory, and gives it away as it is."""

    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS items (item)")
        self.items = [item for (item,) in ctx.storage.sql.exec("SELECT item FROM items")]
        self.text = bytearray()

    def add(self, item: int) -> list[int]:
        self.ctx.storage.sql.exec("INSERT INTO items VALUES (?)", item)
        self.items.append(item)
        self.text += b"%d" % item
        return self.items

    def add_and_fail(self, item: int) -> None:
        raise LookupError(self.add(item))

    async def add_and_give(self, item: int) -> AsyncIterator[bytes]:
        self.add(item)
        yield self.text  # type: ignore[misc]  # as a careless class might

    async def add_and_tell(self, item: int, other: str) -> None:
        self.add(item)
        await self.ctx.namespace("Cart").get_by_name(other).hear(self.items)

    async def add_and_send(self, item: int, other: str) -> None:
        self.add(item)
        await self.ctx.namespace("Cart").get_by_name(other).hear_all(self._fail())

    async def _fail(self) -> AsyncIterator[bytes]:
        raise LookupError(self.items)
        yield b""

    def hear(self, items: list[int]) -> None:
        self.env.log.append(items)

    async def hear_all(self, chunks: AsyncIterator[bytes]) -> None:
        try:
            async for _ in chunks:
                pass
        except Exception as error:
            self.env.log.append(str(error))

    async def add_and_upload(self, item: int) -> None:
        self.add(item)
        await self.ctx.buckets.put("bucket", "cart", self.text)

    async def look_up(self) -> bytes:
        return await self.ctx.buckets.get("bucket", self.text.decode())

    async def look_through(self) -> int:
        return len(await self.ctx.buckets.list("bucket", self.text.decode()))


async def a_cart(world: World, slot: int = 0) -> Stub:
    """A cart that holds 0, and whose commits are held from now on."""
    cart = world.stub_on(slot, Cart)
    await cart.add(0)
    world.hosts[slot].relay.hold(key_of(cart))
    return cart


@pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])
def test_a_result_does_not_show_what_was_written_after_it(slot: int) -> None:
    async def main(world: World) -> None:
        cart = await a_cart(world, slot)
        first = start(cart.add(1))
        await world.elapse(100)
        second = start(cart.add(2))
        await world.elapse(100)
        world.hosts[slot].relay.sync()
        assert await first == [0, 1]
        assert not second.done()

    run(main, Cart, executors=2)


def test_an_error_does_not_show_what_was_written_after_it() -> None:
    async def main(world: World) -> None:
        cart = await a_cart(world)
        first = start(cart.add_and_fail(1))
        await turns()
        start(cart.add(2))
        await turns()
        world.relay.sync()
        assert "[0, 1]" in (await error_of(first)).message

    run(main, Cart)


@pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])
def test_a_call_does_not_tell_another_object_what_was_written_after_it(slot: int) -> None:
    async def main(world: World) -> None:
        cart = await a_cart(world)
        start(cart.add_and_tell(1, world.stub_on(slot, Cart, "witness").id.name))
        await turns()
        start(cart.add(2))
        await turns()
        world.relay.sync()
        await world.elapse(1_000)
        assert world.log == [[0, 1]]

    run(main, Cart, executors=2)


def test_a_chunk_does_not_show_what_was_written_after_it() -> None:
    async def main(world: World) -> None:
        cart = await a_cart(world)
        chunks = await cart.add_and_give(1)
        first = start(chunks.__anext__())
        await turns()
        start(cart.add(2))
        await turns()
        assert not first.done()
        world.relay.sync()
        assert await first == b"01"
        chunks.close()

    run(main, Cart)


def test_a_stream_of_the_caller_that_fails_waits_at_the_gate_and_tells_what_was_then() -> None:
    async def main(world: World) -> None:
        cart, other = await a_cart(world), world.stub(Cart, "witness")
        await other.hear([])
        start(cart.add_and_send(1, other.id.name))
        await turns()
        world.relay.sync()
        start(cart.add(2))
        await turns()
        assert world.log == [[]]
        world.relay.release()
        await world.elapse(1_000)
        assert "[0, 1" in world.log[-1]

    run(main, Cart)


def test_an_upload_of_bytes_does_not_show_what_was_written_after_it() -> None:
    async def main(world: World) -> None:
        cart = await a_cart(world)
        start(cart.add_and_upload(1))
        await turns()
        start(cart.add(2))
        await turns()
        world.relay.sync()
        await world.elapse(1_000)
        assert await world.host.buckets.get("bucket", "cart") == b"01"

    run(main, Cart)


@pytest.mark.parametrize("method", ["look_up", "look_through"])
def test_a_bucket_is_asked_for_a_name_only_when_the_writes_before_it_are_durable(method: str) -> None:
    async def main(world: World) -> None:
        cart = await a_cart(world)
        start(cart.add(1))
        asked = start(getattr(cart, method)())
        await world.elapse(1_000)
        assert not asked.done() and world.host.buckets.reads == []
        world.relay.release()
        if method == "look_up":
            assert "There is no '01'" in (await error_of(asked)).message
        else:
            assert await asked == 0
        assert world.host.buckets.reads == ["01"]

    run(main, Cart)
