"""`ctx.storage.kv`: values by key."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from penstock.base.errors import Corrupt, Invalid
from penstock.base.limits import KV_BATCH_KEYS_MAX, KV_ENTRY_BYTES_MAX, KV_KEY_BYTES_MAX, KV_PAGE_ENTRIES
from penstock.base.rng import seeded_rng
from penstock.objects.kv import Kv, _end_of_prefix
from penstock.objects.storage import ObjectStorage, system_storage
from penstock.storage.database import Database
from penstock.testing.sim.disk import SimDisk
from penstock.testing.sim.mount import Mount

from .box import in_object


class Point(msgspec.Struct):
    x: int
    y: int


def keys(entries: Any) -> list[str]:
    return [key for key, _ in entries]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(1 << 63),
        (1 << 64) - 1,
        1.5,
        "snow\u2603\0",
        b"\0\xff",
        [1, [2]],
        {"a": {"b": None}},
        {1: 2},
    ],
)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    def work(storage: ObjectStorage) -> None:
        storage.kv.put("key", value)
        back = storage.kv.get("key")
        assert back == value and type(back) is type(value)

    in_object(work)


def test_other_values_come_back_as_plain_ones_or_as_the_type_asked_for() -> None:
    def work(storage: ObjectStorage) -> None:
        now = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
        storage.kv.put({"point": Point(1, 2), "pair": (1, 2), "when": now})
        assert storage.kv.get(["point", "pair", "when"]) == {"point": {"x": 1, "y": 2}, "pair": [1, 2], "when": now}
        assert storage.kv.get("point", type=Point) == Point(1, 2)
        assert storage.kv.get(["point"], type=Point) == {"point": Point(1, 2)}
        assert storage.kv.get("pair", type=tuple[int, int]) == (1, 2)
        assert storage.kv.get("nothing", type=Point) is None
        with pytest.raises(Invalid, match="The value of 'pair' is not of that type"):
            storage.kv.get("pair", type=Point)

    in_object(work)


def test_the_encoding_is_message_pack_and_stays_so() -> None:
    def work(storage: ObjectStorage) -> bytes:
        storage.kv.put("key", {"a": [1, None, "x"]})
        return system_storage(storage).execute("SELECT value FROM _penstock_kv").get  # type: ignore[no-any-return]

    assert in_object(work) == bytes.fromhex("81a1619301c0a178")


def test_values_are_there_in_the_next_step_and_gone_when_deleted() -> None:
    def first(storage: ObjectStorage) -> None:
        assert storage.kv.get("a") is None and storage.kv.get(["a"]) == {}
        assert storage.kv.delete("a") is False and storage.kv.delete(["a", "b"]) == 0
        assert list(storage.kv.list()) == []
        storage.kv.put("a", 1)
        storage.kv.put("a", 2)
        storage.kv.put({"b": 3, "c": None})

    def second(storage: ObjectStorage) -> None:
        assert storage.kv.get(["c", "x", "a"]) == {"c": None, "a": 2}
        assert storage.kv.delete("c") is True and storage.kv.delete("c") is False
        assert storage.kv.delete(["a", "b", "x"]) == 2
        assert list(storage.kv.list()) == []

    in_object(first, second)


def test_the_table_is_made_by_the_first_write() -> None:
    def work(storage: ObjectStorage) -> None:
        exists = "SELECT count(*) FROM sqlite_schema WHERE name = '_penstock_kv'"
        storage.kv.get("a")
        storage.kv.put({})
        assert storage.sql.exec(exists).one() == (0,)
        storage.kv.put("a", 1)
        assert storage.sql.exec(exists).one() == (1,)

    in_object(work)


def test_a_transaction_that_is_undone_takes_the_table_with_it() -> None:
    def work(storage: ObjectStorage) -> None:
        def put() -> None:
            storage.kv.put("a", 1)
            raise KeyError

        with pytest.raises(KeyError):
            storage.transaction_sync(put)
        assert storage.kv.get("a") is None and list(storage.kv.list()) == []
        storage.kv.put("b", 2)
        with pytest.raises(KeyError):
            storage.transaction_sync(put)
        assert list(storage.kv.list()) == [("b", 2)]

    in_object(work)


# -- list ----------------------------------------------------------------------------------------------------


def test_keys_are_listed_in_the_order_of_their_utf_8_bytes() -> None:
    names = ["a", "B", "aa", "a\0", "z", "\u00e9", "\uffff", "\U00010000", "~"]

    def work(storage: ObjectStorage) -> None:
        storage.kv.put(dict.fromkeys(names))
        assert keys(storage.kv.list()) == sorted(names, key=str.encode)
        assert keys(storage.kv.list(reverse=True)) == sorted(names, key=str.encode, reverse=True)

    in_object(work)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start": "b"}, "b c ca cb d"),
        ({"start": "bb"}, "c ca cb d"),
        ({"start_after": "b"}, "c ca cb d"),
        ({"start_after": "bb"}, "c ca cb d"),
        ({"end": "c"}, "a b"),
        ({"end": "cb", "start": "b"}, "b c ca"),
        ({"prefix": "c"}, "c ca cb"),
        ({"prefix": "c", "start": "ca"}, "ca cb"),
        ({"prefix": "c", "start": "a"}, "c ca cb"),
        ({"prefix": "c", "start_after": "a"}, "c ca cb"),
        ({"prefix": "c", "start_after": "c"}, "ca cb"),
        ({"prefix": "c", "end": "cb"}, "c ca"),
        ({"prefix": "c", "end": "z", "reverse": True}, "cb ca c"),
        ({"prefix": "x"}, ""),
        ({"start": "d", "end": "b"}, ""),
        ({"limit": 2}, "a b"),
        ({"limit": 2, "reverse": True}, "d cb"),
        ({"limit": 1, "reverse": True, "end": "cb"}, "ca"),
        ({"limit": 100}, "a b c ca cb d"),
    ],
)
def test_a_range_of_keys_can_be_listed(options: dict[str, Any], expected: str) -> None:
    def work(storage: ObjectStorage) -> None:
        storage.kv.put(dict.fromkeys(["a", "b", "c", "ca", "cb", "d"]))
        assert " ".join(keys(storage.kv.list(**options))) == expected

    in_object(work)


def test_a_long_list_is_read_in_pieces_between_which_anything_may_be_written() -> None:
    names = [f"{n:04}" for n in range(KV_PAGE_ENTRIES * 3)]

    def work(storage: ObjectStorage) -> None:
        for at in range(0, len(names), KV_PAGE_ENTRIES):
            storage.kv.put(dict.fromkeys(names[at : at + KV_PAGE_ENTRIES], 1))
        for reverse in (False, True):
            for limit in (KV_PAGE_ENTRIES, KV_PAGE_ENTRIES * 2 + 1, None):
                listed = keys(storage.kv.list(reverse=reverse, limit=limit))
                assert listed == sorted(names, reverse=reverse)[:limit]
        for key, _ in storage.kv.list():
            storage.kv.delete(key)
        assert list(storage.kv.list()) == []
        entries = storage.kv.list()
        storage.kv.put("late", 1)
        assert next(entries) == ("late", 1)
        storage.delete_all()
        assert list(entries) == []

    in_object(work)


@given(st.text(min_size=1), st.text(), st.booleans())
def test_between_a_prefix_and_its_end_is_what_begins_with_it(prefix: str, other: str, joined: bool) -> None:
    other = prefix + other if joined else other
    end = _end_of_prefix(prefix)
    assert end is not None or set(prefix) == {chr(0x10FFFF)}
    between = prefix.encode() <= other.encode() and (end is None or other.encode() < end.encode())
    assert between == other.startswith(prefix)


# -- limits --------------------------------------------------------------------------------------------------


def test_limits_are_named_and_nothing_is_written_above_them() -> None:
    def work(storage: ObjectStorage) -> None:
        kv = storage.kv
        longest = "\u00e9" * (KV_KEY_BYTES_MAX // 2)
        kv.put(longest, 1)
        kv.put("a", bytes(KV_ENTRY_BYTES_MAX - 6))  # five bytes of MessagePack's
        many = [str(n) for n in range(KV_BATCH_KEYS_MAX + 1)]
        kv.put(dict.fromkeys(many[:-1]))
        assert len(kv.get([*many[:-1], *many[:-1]])) == KV_BATCH_KEYS_MAX
        assert kv.delete(many[:-1]) == KV_BATCH_KEYS_MAX
        before = keys(kv.list())
        refusals: list[tuple[Any, str]] = [
            (lambda: kv.put(longest + "x", 1), f"has {KV_KEY_BYTES_MAX + 1} bytes; it must have 1 to 2048"),
            (lambda: kv.get(longest + "x"), "1 to 2048"),
            (lambda: kv.delete(["a", longest + "x"]), "1 to 2048"),
            (lambda: kv.put("", 1), "has 0 bytes"),
            (lambda: kv.get(""), "has 0 bytes"),
            (lambda: kv.put("\ud800", 1), "not valid Unicode"),
            (lambda: kv.list(prefix="\ud800"), "not valid Unicode"),
            (lambda: kv.put(1, 1), "put takes a key and a value, or a dict"),  # type: ignore[call-overload]
            (lambda: kv.get([1]), "A key is a string, not int"),  # type: ignore[list-item]
            (
                lambda: kv.put("b", bytes(KV_ENTRY_BYTES_MAX - 5)),
                f"{KV_ENTRY_BYTES_MAX + 1} bytes; the limit is 2097152",
            ),
            (lambda: kv.put({"b": 1, "c": object()}), "The value of 'c' cannot be stored"),
            (lambda: kv.put("b", 1 << 64), "The value of 'b' cannot be stored"),
            (lambda: kv.put("b", endless()), "The value of 'b' cannot be stored"),
            (lambda: kv.put("b"), "is without a value"),  # type: ignore[call-overload]
            (lambda: kv.put(dict.fromkeys(many)), "129 keys at once; the limit is 128"),
            (lambda: kv.get(many), "129 keys at once; the limit is 128"),
            (lambda: kv.delete(many), "129 keys at once; the limit is 128"),
            (lambda: kv.list(start="a", start_after="b"), "start or start_after"),
            (lambda: kv.list(limit=0), "limit is 0; it must be 1 or more"),
        ]
        for refused, message in refusals:
            with pytest.raises(Invalid, match=message):
                refused()
        assert keys(kv.list()) == before

    in_object(work)


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def test_a_damaged_value_is_never_given() -> None:
    def work(storage: ObjectStorage) -> None:
        storage.kv.put("a", [1, 2])
        system_storage(storage).execute("UPDATE _penstock_kv SET value = x'9301'")
        with pytest.raises(Corrupt, match="The value of 'a' is damaged"):
            storage.kv.get("a")

    in_object(work)


# -- against a model -------------------------------------------------------------------------------------------


class _Storage:
    """As much of an object's storage as `Kv` uses."""

    def __init__(self) -> None:
        database = Database.open(Mount(SimDisk(seeded_rng(1)), f"kv-{id(self)}", {}), "/kv.db")
        self.execute = database.execute
        self.committer = SimpleNamespace(database=database)


KEYS = st.text(alphabet="ab\u00e9\ud7ff\ue000\U0010ffff", min_size=1, max_size=3)
BOUNDS = st.none() | KEYS


class KvAgainstADict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.kv = Kv(_Storage())  # type: ignore[arg-type]
        self.model: dict[str, int] = {}

    @rule(key=KEYS, value=st.integers(0, 9))
    def put(self, key: str, value: int) -> None:
        self.kv.put(key, value)
        self.model[key] = value

    @rule(entries=st.dictionaries(KEYS, st.integers(0, 9), max_size=40))
    def put_many(self, entries: dict[str, int]) -> None:
        self.kv.put(entries)
        self.model.update(entries)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        assert self.kv.get(key) == self.model.get(key)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.kv.delete(key) == (self.model.pop(key, None) is not None)

    @rule(
        start=BOUNDS,
        after=st.booleans(),
        end=BOUNDS,
        prefix=st.just("") | KEYS,
        reverse=st.booleans(),
        limit=st.none() | st.integers(1, 50),
    )
    def list(
        self, start: str | None, after: bool, end: str | None, prefix: str, reverse: bool, limit: int | None
    ) -> None:
        bound = {"start_after" if after else "start": start}
        listed = [*self.kv.list(**bound, end=end, prefix=prefix, reverse=reverse, limit=limit)]  # type: ignore[arg-type]
        expected = [
            (key, value)
            for key, value in sorted(self.model.items(), key=lambda item: item[0].encode())
            if key.startswith(prefix)
            and (start is None or key.encode() > start.encode() or (key == start and not after))
            and (end is None or key.encode() < end.encode())
        ]
        assert listed == (expected[::-1] if reverse else expected)[:limit]


def test_it_behaves_as_a_sorted_dict() -> None:
    run_state_machine_as_test(KvAgainstADict, settings=settings(max_examples=60, stateful_step_count=30))
