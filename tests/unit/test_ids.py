from hypothesis import given
from hypothesis import strategies as st

from penstock.base.ids import ULID_LENGTH, next_ulid, random_id
from penstock.base.rng import seeded_rng


@given(st.lists(st.integers(min_value=0, max_value=2**48 - 1), min_size=2, max_size=50), st.integers())
def test_ulids_rise_whatever_the_clock_does(times_ms: list[int], seed: int) -> None:
    rng = seeded_rng(seed)
    ulids: list[str] = []
    for now_ms in times_ms:
        ulids.append(next_ulid(ulids[-1] if ulids else None, now_ms, rng))
    assert ulids == sorted(ulids)
    assert len(set(ulids)) == len(ulids)
    assert all(len(ulid) == ULID_LENGTH for ulid in ulids)


def test_a_ulid_carries_its_time() -> None:
    # The time part of the example in the ULID specification: 1469918176385 is 01ARYZ6S41.
    ulid = next_ulid(None, 1469918176385, seeded_rng(1))
    assert ulid.startswith("01ARYZ6S41")


def test_ids_are_32_hexadecimal_digits() -> None:
    id = random_id(seeded_rng(1))
    assert len(id) == 32
    assert int(id, 16) >= 0
