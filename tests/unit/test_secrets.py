"""Secrets at rest: sealed for one use, opened with any key of the file."""

from __future__ import annotations

import pytest

from penstock.base.errors import Corrupt, Invalid, Unavailable
from penstock.base.rng import seeded_rng
from penstock.storage.secrets import SecretKey, Secrets, decode_keys, encode_keys, new_secret_key

CANARY = b"canary-7e1f"
OLD, NEW = new_secret_key(seeded_rng(1)), new_secret_key(seeded_rng(2))


def test_what_was_sealed_opens_for_the_same_use() -> None:
    secrets = Secrets([OLD], seeded_rng(3))
    for plain in (b"", CANARY, bytes(1000)):
        assert secrets.open(secrets.seal(plain, "pipeline 1"), "pipeline 1") == plain


def test_G10_sealed_text_shows_nothing_and_no_two_are_the_same() -> None:
    secrets = Secrets([OLD], seeded_rng(3))
    sealed = {secrets.seal(CANARY, "pipeline 1") for _ in range(20)}
    assert len(sealed) == 20
    assert not any(CANARY.decode() in text for text in sealed)


def test_what_was_sealed_for_one_use_opens_for_no_other() -> None:
    secrets = Secrets([OLD], seeded_rng(3))
    sealed = secrets.seal(CANARY, "pipeline 1")
    with pytest.raises(Corrupt, match="sealed for something else"):
        secrets.open(sealed, "pipeline 2")


def test_damage_anywhere_is_noticed() -> None:
    secrets = Secrets([OLD], seeded_rng(3))
    sealed = secrets.seal(CANARY, "c")
    for at in range(len(sealed)):
        other = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
        with pytest.raises((Corrupt, Unavailable)) as caught:
            # (the last character's unused bits may differ without changing a byte)
            assert secrets.open(other, "c") == CANARY and at >= len(sealed) - 2
            raise Corrupt("same bytes")
        assert sealed not in caught.value.message
    for broken in ("", "v1", "v1.", f"v1.{OLD.id}", f"v1.{OLD.id}.", f"v1.{OLD.id}.AAAA", f"v1.{OLD.id}.é"):
        with pytest.raises((Corrupt, Unavailable)):
            secrets.open(broken, "c")


def test_G10_keys_rotate_the_first_seals_and_all_open() -> None:
    before = Secrets([OLD], seeded_rng(3)).seal(CANARY, "c")
    rotated = Secrets([NEW, OLD], seeded_rng(4))
    after = rotated.seal(CANARY, "c")
    assert rotated.open(before, "c") == rotated.open(after, "c") == CANARY
    assert Secrets([NEW]).open(after, "c") == CANARY
    assert f".{NEW.id}." in after


def test_a_key_that_is_gone_is_named_with_what_to_restore() -> None:
    sealed = Secrets([OLD], seeded_rng(3)).seal(CANARY, "c")
    with pytest.raises(Unavailable, match=rf"{OLD.id}.*Restore the secret key file.*secret\.key"):
        Secrets([NEW], seeded_rng(3)).open(sealed, "c")
    with pytest.raises(Unavailable, match="no secret key"):
        Secrets([]).seal(CANARY, "c")


def test_a_key_file_is_read_as_it_was_written() -> None:
    assert decode_keys(encode_keys([NEW, OLD]), "f") == [NEW, OLD]


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "12345678\n", "1234567g " + "A" * 43 + "=\n", "12345678 " + "A" * 42 + "=\n", "\0\n"],
)
def test_a_damaged_key_file_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(Invalid, match=r"^/data/secret\.key is damaged: .*Restore it from a backup") as caught:
        decode_keys(text, "/data/secret.key")
    assert "AAAA" not in caught.value.message


def test_two_keys_of_one_id_are_refused() -> None:
    with pytest.raises(Invalid, match="same id"):
        decode_keys(encode_keys([OLD, SecretKey(OLD.id, NEW.key)]), "f")


def test_G10_no_representation_shows_a_key() -> None:
    key = SecretKey("00000000", CANARY * 3)
    assert CANARY.decode() not in f"{key} {key!r} {[key]} {Secrets([])!r}"
