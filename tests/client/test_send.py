"""`send`: durable on return, or an error that holds what is not."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter

import pytest

from penstock import Invalid, SendError, TooLarge
from penstock.client.ports import NoAnswer
from penstock.client.settings import ClientSettings

from .world import ENDPOINT, ID, LOST, URL, World, in_world, numbered, numbers, ok, refused


def test_it_gives_the_number_that_was_stored() -> None:
    async def test(world: World) -> None:
        assert await world.clicks.send(numbered(1, 2, 3)) == 3
        assert numbers(world.server.stored) == [1, 2, 3]
        assert await world.clicks.send([]) == 0
        assert len(world.server.seen) == 1

    in_world(test)


def test_a_pipeline_is_looked_up_by_its_name_once_with_the_token() -> None:
    async def test(world: World) -> None:
        clicks = world.client.pipeline("clicks")
        assert clicks is world.client.pipeline("clicks")
        await asyncio.gather(*(clicks.send(numbered(n)) for n in range(5)))
        lookup, *posts = world.server.seen
        assert lookup.url == f"{URL}/client/v4/accounts/account/pipelines/clicks"
        assert {(post.method, post.url) for post in posts} == {("POST", ENDPOINT)}
        assert {request.headers["authorization"] for request in world.server.seen} == {"Bearer secret"}
        assert await clicks.endpoint() == ENDPOINT
        assert len(world.server.seen) == 6

    in_world(test)


def test_the_token_is_not_sent_to_an_endpoint_that_is_given_unless_it_is_given_too() -> None:
    async def test(world: World) -> None:
        await world.client.pipeline_at(ENDPOINT).send(numbered(1))
        await world.client.pipeline_at(ENDPOINT, "its own").send(numbered(1))
        assert [post.headers.get("authorization") for post in world.server.posts] == [None, "Bearer its own"]

    in_world(test)


def test_a_pipeline_that_was_deleted_and_created_again_is_found_again() -> None:
    async def test(world: World) -> None:
        clicks = world.client.pipeline("clicks")
        await clicks.send(numbered(1))
        world.server.pipelines["clicks"] = "b" * 32
        await clicks.send(numbered(2))
        assert [post.url[-1] for post in world.server.posts] == ["a", "a", "b"]
        del world.server.pipelines["clicks"]
        with pytest.raises(SendError) as error:
            await clicks.send(numbered(3))
        assert error.value.kind == "not_found" and numbers(error.value.records) == [3]

    in_world(test)


def test_an_unknown_name_and_a_refused_token_say_what_is_wrong() -> None:
    async def test(world: World) -> None:
        with pytest.raises(SendError, match="1 record not sent to nothing: There is no such pipeline") as error:
            await world.client.pipeline("nothing").send(numbered(1))
        assert (error.value.kind, error.value.code) == ("not_found", 1000)
        world.server.script = [refused(401, "Not valid.", 10000)]
        with pytest.raises(SendError, match="refused the token from the argument token: Not valid"):
            await world.client.pipeline("clicks").send(numbered(1))

    in_world(test)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507])
def test_it_is_tried_again_with_the_same_bytes_and_key(status: int) -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(status), NoAnswer("reset"), refused(status)]
        assert await world.clicks.send(numbered(1)) == 1
        assert len(world.server.seen) == 4
        assert len({(request.key, request.body) for request in world.server.seen}) == 1

    in_world(test)


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid"), (401, "unauthenticated"), (403, "forbidden"), (409, "conflict")]
)
def test_what_is_refused_for_good_is_not_tried_again(status: int, kind: str) -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(status, "Never.", 1003)]
        with pytest.raises(SendError, match=f"2 records not sent to {ENDPOINT}: Never") as error:
            await world.clicks.send(numbered(1, 2))
        assert (error.value.kind, error.value.code, error.value.retryable) == (kind, 1003, False)
        assert numbers(error.value.records) == [1, 2]
        assert len(world.server.seen) == 1

    in_world(test)


def test_an_answer_that_was_lost_does_not_store_records_twice() -> None:
    async def test(world: World) -> None:
        world.server.script = [LOST, LOST]
        assert await world.clicks.send(numbered(1, 2)) == 2
        assert numbers(world.server.stored) == [1, 2]

    in_world(test)


def test_it_waits_as_long_as_the_server_asks_for() -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(429, retry_after="7")]
        await world.clicks.send(numbered(1))
        first, second = world.server.seen
        assert 7_000 <= second.at_ms - first.at_ms <= 7_200

    in_world(test)


def test_it_gives_up_at_the_deadline_with_the_last_error() -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(429), refused(503, "Starting.")] * 500
        with pytest.raises(SendError) as error:
            await world.clicks.send(numbered(1))
        assert error.value.kind in ("overloaded", "unavailable") and error.value.retryable
        assert 40_000 < world.clock.elapsed_ms() < 60_000, "the next try would have come too late"
        assert 10 < len(world.server.seen) < 60

    in_world(test)


def test_it_does_not_wait_for_a_time_after_its_deadline() -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(429, "Tomorrow.", retry_after="86400")]
        with pytest.raises(SendError, match="Tomorrow") as error:
            await world.clicks.send(numbered(1))
        assert world.clock.elapsed_ms() < 10
        assert (error.value.kind, error.value.overloaded, error.value.retry_after_s) == ("overloaded", True, 86_400)

    in_world(test)


def test_a_server_that_does_not_answer_costs_a_bounded_time() -> None:
    async def test(world: World) -> None:
        world.server.latency_ms = 3_600_000
        with pytest.raises(SendError) as error:
            await world.clicks.send(numbered(1))
        assert error.value.kind == "unavailable"
        assert world.clock.elapsed_ms() == 5_000

    in_world(test, ClientSettings(deadline_ms=5_000))


def test_what_no_body_can_hold_at_once_goes_in_several() -> None:
    async def test(world: World) -> None:
        assert await world.clicks.send(numbered(*range(100))) == 100
        assert numbers(world.server.stored) == [*range(100)]
        assert len(world.server.seen) == 5
        assert all(len(request.body) <= 200 for request in world.server.seen)
        assert len(world.server.keys) == len(world.server.seen)

    in_world(test, ClientSettings(body_bytes_max=200))


def test_what_the_server_finds_too_large_is_halved_until_it_fits() -> None:
    async def test(world: World) -> None:
        world.server.body_bytes_max = 100
        assert await world.clicks.send(numbered(*range(40))) == 40
        assert numbers(world.server.stored) == [*range(40)]
        with pytest.raises(SendError) as error:
            await world.clicks.send([{"n": 1}, {"n": 2, "x": "x" * 200}, {"n": 3}])
        assert (error.value.kind, error.value.committed) == ("too_large", 1)
        assert numbers(error.value.records) == [2, 3]

    in_world(test)


def test_an_error_says_what_is_stored_and_holds_the_rest() -> None:
    async def test(world: World) -> None:
        world.server.script = [None, None, refused(403, "Closed.")]
        with pytest.raises(SendError) as error:
            await world.clicks.send(numbered(*range(100)))
        assert error.value.committed == len(world.server.stored) > 0
        assert numbers(world.server.stored) + numbers(error.value.records) == [*range(100)]
        assert await world.clicks.send(error.value.records) == len(error.value.records)
        assert numbers(world.server.stored) == [*range(100)]

    in_world(test, ClientSettings(body_bytes_max=200))


@pytest.mark.parametrize("bytes_max", [1_000_000, 200])
def test_the_same_records_with_the_same_key_are_stored_once(bytes_max: int) -> None:
    async def test(world: World) -> None:
        world.server.script = [None, None, refused(403)] if bytes_max == 200 else []
        sent = 0
        for _ in range(3):
            try:
                sent = await world.clicks.send(numbered(*range(100)), idempotency_key="order-7")
            except SendError:
                continue
        assert sent == 100
        assert numbers(world.server.stored) == [*range(100)]
        assert bytes_max == 200 or {post.key for post in world.server.posts} == {"order-7"}

    in_world(test, ClientSettings(body_bytes_max=bytes_max))


@pytest.mark.parametrize("whose_limit", ["client", "server"])
def test_records_that_are_all_alike_are_all_stored_also_in_several_bodies(whose_limit: str) -> None:
    async def test(world: World) -> None:
        if whose_limit == "server":
            world.server.body_bytes_max = 100
        for _ in range(2):
            assert await world.clicks.send([{"n": 1}] * 64, idempotency_key="ticks") == 64
            assert numbers(world.server.stored) == [1] * 64

    in_world(test, ClientSettings(body_bytes_max=100) if whose_limit == "client" else None)


@pytest.mark.parametrize("key", ["", " a", "a\nb", "ä", "x" * 129])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(Invalid, match="1 to 128 printable ASCII"):
            await world.clicks.send(numbered(1), idempotency_key=key)
        assert not world.server.seen

    in_world(test)


def test_bodies_are_compressed_where_that_is_asked_for() -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(503)]
        await world.clicks.send(numbered(*range(1000)))
        first, second = world.server.posts
        assert first.headers["content-encoding"] == "gzip" and first.body == second.body
        assert len(first.body) < len(gzip.decompress(first.body)) / 2
        assert numbers(world.server.stored) == [*range(1000)]

    in_world(test, ClientSettings(compression="gzip"))


def test_a_record_that_cannot_be_sent_stops_all_before_anything_is_sent() -> None:
    async def test(world: World) -> None:
        with pytest.raises(Invalid, match="Record 1"):
            await world.clicks.send([{"n": 1}, 2])
        with pytest.raises(TooLarge, match="Record 0"):
            await world.clicks.send([{"x": "x" * 6_000_000}])
        assert not world.server.seen

    in_world(test)


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"success":true,"result":{}}', b'{"success":false,"result":{"committed":1}}']
)
def test_a_200_that_does_not_say_what_is_stored_is_no_success(body: bytes) -> None:
    async def test(world: World) -> None:
        answer = ok({})
        world.server.script = [type(answer)(200, {}, body)]
        with pytest.raises(SendError, match="is it a Penstock server") as error:
            await world.clicks.send(numbered(1))
        assert error.value.kind == "invalid"

    in_world(test)


def test_a_redirect_is_not_followed() -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(307, location="http://elsewhere")]
        with pytest.raises(SendError, match="redirects to 'http://elsewhere'"):
            await world.clicks.send(numbered(1))
        assert len(world.server.seen) == 1

    in_world(test)


def test_a_connection_that_can_never_be_is_not_tried_again() -> None:
    async def test(world: World) -> None:
        world.server.script = [NoAnswer("The certificate is not valid.", hopeless=True)]
        with pytest.raises(SendError, match="certificate") as error:
            await world.clicks.send(numbered(1))
        assert error.value.kind == "invalid"
        assert len(world.server.seen) == 1

    in_world(test)


def test_outside_of_its_block_a_client_says_how_it_is_used() -> None:
    async def test(world: World) -> None:
        with pytest.raises(Invalid, match="async with"):
            await world.clicks.send(numbered(1))
        with pytest.raises(Invalid, match="async with"):
            await world.clicks.put({"n": 1})
        async with world.client:
            await world.clicks.send(numbered(1))
        with pytest.raises(Invalid, match="closed"):
            await world.clicks.send(numbered(1))
        with pytest.raises(Invalid, match="closed"):
            await world.clicks.put({"n": 1})
        with pytest.raises(Invalid, match="once"):
            await world.client.__aenter__()
        assert world.server.closed

    in_world(test, entered=False)


def test_every_request_has_a_key_of_its_own() -> None:
    async def test(world: World) -> None:
        await asyncio.gather(*(world.clicks.send(numbered(1)) for _ in range(50)))
        assert max(Counter(post.key for post in world.server.posts).values()) == 1
        assert world.server.pipelines == {"clicks": ID} and len(world.server.stored) == 50

    in_world(test)
