from collections import Counter

from penstock.objects.identity import ObjectId
from penstock.objects.placement import name_owned_by, owner
from penstock.pipelines.plan import plan_shards

KEYS = [ObjectId("Thing", str(n)).key for n in range(3000)]


def test_objects_spread_evenly() -> None:
    counts = Counter(owner(key, 4) for key in KEYS)
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 600


def test_one_more_executor_moves_only_what_it_takes_over() -> None:
    before, after = [owner(key, 3) for key in KEYS], [owner(key, 4) for key in KEYS]
    assert all(new in (old, 3) for old, new in zip(before, after, strict=True))


def test_a_name_can_be_made_to_land_on_an_executor() -> None:
    for slot in range(5):
        name = name_owned_by("StreamShard", "p/0", slot, 5)
        assert name.startswith("p/0")
        assert owner(ObjectId("StreamShard", name).key, 5) == slot


def test_namespace_and_name_are_kept_apart_in_the_key() -> None:
    assert ObjectId("a", "b/c").key != ObjectId("a/b", "c").key


def test_a_pipeline_has_a_shard_on_each_executor() -> None:
    shards = plan_shards("p", [], None, 3)
    assert [owner(ObjectId("StreamShard", shard).key, 3) for shard in shards] == [0, 1, 2]


def test_more_shards_go_on_from_those_there_are() -> None:
    two = plan_shards("p", [], 2, 2)
    assert plan_shards("p", two, 4, 2)[:2] == two


def test_fewer_shards_leave_the_last_ones_out() -> None:
    four = plan_shards("p", [], 4, 2)
    assert plan_shards("p", four, 1, 2) == four[:1]
