from collections import Counter

from penstock.objects.identity import ObjectId
from penstock.objects.placement import name_owned_by, owner
from penstock.pipelines.plan import shard_count, shard_name

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
    shards = [shard_name("p", 1, index, 3) for index in range(shard_count(None, 3))]
    assert [owner(ObjectId("StreamShard", shard).key, 3) for shard in shards] == [0, 1, 2]


def test_a_pipeline_has_as_many_shards_as_it_wants() -> None:
    assert shard_count(7, 2) == 7
    assert shard_count(None, 1) == 2
    assert shard_count(None, 64) == 15
