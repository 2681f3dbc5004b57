"""A storage shard: what it keeps, gives, takes back and lets go."""

from __future__ import annotations

from tests.objects.world import error_of, start
from tests.queues.world import SHARD, Shard, consumer, pull_settings, run_shard, shard_map, worker_settings

from penstock.base.errors import Conflict, NotFound, Overloaded, Unprocessable
from penstock.queues.message import ContentType, NewMessage, decode_messages, encode_new
from penstock.queues.settlement import MessageRef, Settlement, Verdict
from penstock.queues.storage_shard import StorageShard


def test_what_was_sent_is_leased_in_order_and_gone_when_it_is_acknowledged() -> None:
    async def main(shard: Shard) -> None:
        assert await shard.send("a", "b", "c") == 3
        lease, messages = await shard.lease(limit=2)
        assert [(m.body, m.attempts) for m in messages] == [(b"a", 1), (b"b", 1)]
        assert await shard.stub.settle("c", [Settlement(lease, False)]) == 2
        assert await shard.bodies() == ["c"]
        assert (await shard.stub.backlog()).messages == 1

    run_shard(main)


def test_ids_are_unique_and_stay() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a", "b")
        lease, first = await shard.lease()
        await shard.stub.settle("c", [Settlement(lease, True)])
        _, again = await shard.lease()
        assert [m.id for m in first] == [m.id for m in again]
        assert len({m.id for m in first}) == 2
        assert [m.attempts for m in again] == [2, 2]

    run_shard(main)


def test_a_lease_that_ends_gives_its_messages_to_the_next() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a")
        await shard.lease(lease_ms=1_000)
        assert await shard.bodies() == []
        await shard.world.elapse(999)
        assert await shard.bodies() == []
        await shard.world.elapse(1)
        _, messages = await shard.lease()
        assert [(m.body, m.attempts) for m in messages] == [(b"a", 2)]

    run_shard(main)


def test_D1_a_clock_that_jumps_ends_no_lease() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a")
        await shard.lease(lease_ms=10_000)
        shard.world.clock.jump_ms(3_600_000)
        assert await shard.bodies() == []
        shard.world.clock.jump_ms(-7_200_000)
        await shard.world.elapse(10_000)
        assert await shard.bodies() == ["a"]

    run_shard(main)


def test_who_waits_gets_what_is_sent_at_once() -> None:
    async def main(shard: Shard) -> None:
        waiting = [start(shard.bodies(limit=1, wait_ms=10_000)) for _ in range(3)]
        await shard.world.elapse(5)
        await shard.send("a", "b")
        await shard.world.elapse(1)
        assert [call.done() for call in waiting] == [True, True, False]
        await shard.world.elapse(10_000)
        assert [await call for call in waiting] == [["a"], ["b"], []]

    run_shard(main)


def test_a_batch_goes_when_it_is_full_or_its_first_message_has_waited() -> None:
    async def main(shard: Shard) -> None:
        call = start(shard.bodies(limit=3, wait_ms=20_000, full=True))
        await shard.send("a", "b")
        await shard.world.elapse(4_990)
        assert not call.done()
        await shard.world.elapse(20)
        assert await call == ["a", "b"]
        call = start(shard.bodies(limit=3, wait_ms=20_000, full=True))
        await shard.send("c", "d", "e", "f")
        await shard.world.elapse(1)
        assert await call == ["c", "d", "e"]

    run_shard(main, shard_map(consumer("c", worker_settings(batch_size=3, max_wait_time_ms=5_000))))


def test_a_delay_is_kept() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("later", delay_ms=2_000)
        await shard.send("now")
        assert await shard.bodies() == ["now"]
        call = start(shard.bodies(wait_ms=10_000))
        await shard.world.elapse(1_990)
        assert not call.done()
        await shard.world.elapse(20)
        assert await call == ["later"]

    run_shard(main)


def test_a_delivery_delay_of_the_queue_holds_for_messages_that_say_nothing() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("later")
        await shard.send("now", delay_ms=0)
        assert await shard.bodies() == ["now"]
        await shard.world.elapse(5_000)
        assert await shard.bodies() == ["later"]

    run_shard(main, shard_map(consumer("c"), delivery_delay_s=5))


def test_verdicts_are_kept_one_by_one() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a", "b", "c", "d")
        lease, messages = await shard.lease()
        retry_b = Verdict(messages[1].sequence, True, 1_000)
        retry_d = Verdict(messages[3].sequence, True)
        assert await shard.stub.settle("c", [Settlement(lease, False, verdicts=[retry_b, retry_d])]) == 2
        assert await shard.bodies() == ["d"]
        await shard.world.elapse(1_000)
        assert await shard.bodies() == ["b"]

    run_shard(main)


def test_F1_a_settlement_of_a_lease_that_has_ended_is_left_out() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a")
        old, _ = await shard.lease(lease_ms=100)
        await shard.world.elapse(100)
        new, _ = await shard.lease()
        assert await shard.stub.settle("c", [Settlement(old, False)]) == 0
        assert (await shard.stub.backlog()).messages == 1
        assert await shard.stub.settle("c", [Settlement(new, False)]) == 1

    run_shard(main)


def test_F1_a_message_is_acknowledged_late_even_if_another_has_it() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a", "b")
        _, messages = await shard.lease(lease_ms=100)
        await shard.world.elapse(100)
        lease, _ = await shard.lease()
        refs = [MessageRef(m.sequence, 1) for m in messages]
        assert await shard.stub.settle_messages("c", refs[:1], []) == [True]
        assert await shard.stub.settle_messages("c", refs[:1], []) == [False]
        assert await shard.stub.settle("c", [Settlement(lease, False)]) == 1
        assert (await shard.stub.backlog()).messages == 0

    run_shard(main)


def test_F1_only_who_has_a_message_can_ask_for_it_again() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a")
        _, [message] = await shard.lease(lease_ms=100)
        await shard.world.elapse(100)
        await shard.lease()
        assert await shard.stub.settle_messages("c", [], [(MessageRef(message.sequence, 1), None)]) == [False]
        assert await shard.bodies() == []
        assert await shard.stub.settle_messages("c", [], [(MessageRef(message.sequence, 2), None)]) == [True]
        assert await shard.bodies() == ["a"]

    run_shard(main)


def test_what_was_not_delivered_does_not_count_as_an_attempt() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a")
        lease, _ = await shard.lease()
        await shard.stub.release("c", [lease])
        _, [message] = await shard.lease()
        assert message.attempts == 1

    run_shard(main)


def test_a_lease_that_is_extended_lasts() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a")
        lease, _ = await shard.lease(lease_ms=1_000)
        await shard.world.elapse(900)
        assert await shard.stub.extend("c", [lease, 77], 1_000) == [lease]
        await shard.world.elapse(900)
        assert await shard.bodies() == []
        await shard.world.elapse(100)
        assert await shard.bodies() == ["a"]

    run_shard(main)


def test_attempts_deadlines_and_cursors_are_there_after_a_crash() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a", "b", "c")
        _, messages = await shard.lease(limit=2, lease_ms=5_000)
        await shard.world.host.kill()
        await shard.world.elapse(1_000)
        await shard.world.start()
        shard.stub = shard.world.stub(StorageShard, SHARD)
        assert await shard.bodies() == ["c"]
        refs = [MessageRef(messages[0].sequence, 1)]
        assert await shard.stub.settle_messages("c", refs, []) == [True]
        await shard.world.elapse(4_000)
        _, [message] = await shard.lease()
        assert (message.body, message.attempts) == (b"b", 2)

    run_shard(main)


def test_two_consumers_get_every_message_each() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("x", "y")
        one, first = await shard.lease("one")
        two, second = await shard.lease("two", limit=1)
        assert [m.body for m in first] == [b"x", b"y"]
        assert [m.body for m in second] == [b"x"]
        await shard.stub.settle("one", [Settlement(one, False)])
        assert (await shard.stub.backlog()).messages == 2
        await shard.stub.settle("two", [Settlement(two, False)])
        assert (await shard.stub.backlog()).messages == 1
        assert await shard.bodies("two") == ["y"]
        assert await shard.bodies("one") == []

    run_shard(main, shard_map(consumer("one"), consumer("two")))


def test_a_consumer_that_is_removed_holds_nothing_back() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("x", "y", "z")
        one, _ = await shard.lease("one", limit=2)
        await shard.stub.settle("one", [Settlement(one, False)])
        await shard.configure(shard_map(consumer("one"), version=2))
        await shard.world.elapse(100)
        assert (await shard.stub.backlog()).messages == 1
        assert await shard.bodies("one") == ["z"]
        assert isinstance(await error_of(shard.lease("two")), NotFound)

    run_shard(main, shard_map(consumer("one"), consumer("two")))


def test_a_consumer_that_comes_later_gets_all_that_there_is() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("x")
        await shard.send("later", delay_ms=1_000)
        await shard.configure(shard_map(consumer("c"), version=2))
        assert await shard.bodies() == ["x"]
        await shard.world.elapse(1_000)
        assert await shard.bodies() == ["later"]

    run_shard(main, shard_map())


def test_a_purge_takes_all_but_what_is_out_and_that_does_not_come_back() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("out", "in")
        lease, _ = await shard.lease(limit=1)
        await shard.send("later", delay_ms=1_000)
        await shard.stub.purge()
        await shard.send("after")
        await shard.world.elapse(2_000)
        assert (await shard.stub.backlog()).messages == 2
        await shard.stub.settle("c", [Settlement(lease, True)])
        assert await shard.bodies() == ["after"]
        assert (await shard.stub.backlog()).messages == 1

    run_shard(main)


def test_messages_are_purged_one_by_one() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a", "b", "c")
        seen = decode_messages(await shard.stub.peek(0, 10))
        assert await shard.stub.purge_messages([seen[1].sequence, 99]) == [True, False]
        assert await shard.bodies() == ["a", "c"]

    run_shard(main)


def test_what_is_older_than_the_queue_keeps_it_is_deleted() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("old")
        await shard.send("delayed", delay_ms=50_000)
        await shard.world.elapse(59_000)
        await shard.send("new")
        await shard.world.elapse(2_000)
        assert (await shard.stub.backlog()).messages == 2
        assert sorted(await shard.bodies()) == ["delayed", "new"]

    run_shard(main, shard_map(consumer("c"), message_retention_period_s=60))


def test_without_a_dead_letter_queue_what_failed_too_often_is_deleted_and_counted() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("poison", "fine")
        for attempt in (1, 2):
            lease, messages = await shard.lease()
            verdict = Verdict(messages[0].sequence, True)
            assert [m.attempts for m in messages if m.body == b"poison"] == [attempt]
            await shard.stub.settle("c", [Settlement(lease, False, verdicts=[verdict], failed=True)])
        await shard.world.elapse(100)
        assert (await shard.stub.backlog()).messages == 0
        assert shard.world.env.statistics.of("q" * 32).dropped == {"handler_failed": 1}

    run_shard(main, shard_map(consumer("c", pull_settings(max_retries=1))))


def test_F1_a_dedup_id_that_comes_again_is_stored_once() -> None:
    async def main(shard: Shard) -> None:
        assert await shard.send("a", dedup_id="x") == 1
        assert await shard.send("a", dedup_id="x") == 0
        await shard.world.elapse(10_000)
        assert await shard.send("a", dedup_id="x") == 1
        assert (await shard.stub.backlog()).messages == 2

    run_shard(main, shard_map(consumer("c"), dedup_window_s=10))


def test_F1_a_request_that_comes_again_is_stored_once_and_another_refused() -> None:
    async def main(shard: Shard) -> None:
        body = encode_new([NewMessage(ContentType.JSON, b"1")])
        for _ in range(2):
            assert (await shard.stub.append(body, 1, "key", b"print")).stored == 1
        assert (await shard.stub.backlog()).messages == 1
        assert isinstance(await error_of(shard.stub.append(body, 1, "key", b"other")), Unprocessable)

    run_shard(main)


def test_a_shard_that_is_closed_gives_but_does_not_take() -> None:
    async def main(shard: Shard) -> None:
        await shard.send("a")
        await shard.configure(shard_map(consumer("c"), version=2, open=False))
        assert isinstance(await error_of(shard.send("b")), Conflict)
        assert await shard.bodies() == ["a"]

    run_shard(main)


def test_a_paused_queue_takes_but_does_not_give() -> None:
    async def main(shard: Shard) -> None:
        call = start(shard.bodies(wait_ms=10_000))
        await shard.send("a")
        await shard.world.elapse(1)
        assert not call.done()
        await shard.configure(shard_map(consumer("c"), version=2))
        await shard.world.elapse(1)
        assert await call == ["a"]

    run_shard(main, shard_map(consumer("c"), delivery_paused=True))


def test_a_shard_holds_no_more_than_it_may() -> None:
    async def main(shard: Shard) -> None:
        big = "x" * 4_000_000
        await shard.send(big)
        await shard.send(big)
        error = await error_of(shard.send(big))
        assert isinstance(error, Overloaded)
        assert error.code == 10251
        lease, _ = await shard.lease()
        await shard.stub.settle("c", [Settlement(lease, False)])
        await shard.send(big)

    run_shard(main)
