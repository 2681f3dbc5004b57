from __future__ import annotations

import pytest

from penstock.cli.access_key import complete_key
from penstock.cli.errors import WrongFlag

OURS = {"PENSTOCK_S3_ACCESS_KEY_ID": "ours", "PENSTOCK_S3_SECRET_ACCESS_KEY": "our-secret"}
AWS = {"AWS_ACCESS_KEY_ID": "aws", "AWS_SECRET_ACCESS_KEY": "aws-secret"}


def test_flags_come_before_our_variables_and_those_before_amazons() -> None:
    assert complete_key("k", "s", OURS | AWS) == ("k", "s")
    assert complete_key(None, None, OURS | AWS) == ("ours", "our-secret")
    assert complete_key(None, None, AWS) == ("aws", "aws-secret")
    assert complete_key(None, None, {}) is None


def test_the_secret_alone_may_be_in_the_environment() -> None:
    assert complete_key("k", None, {"PENSTOCK_S3_SECRET_ACCESS_KEY": "s"}) == ("k", "s")
    assert complete_key("k", None, {"AWS_SECRET_ACCESS_KEY": "s"}) == ("k", "s")
    assert complete_key(None, "s", {"PENSTOCK_S3_ACCESS_KEY_ID": "k"}) == ("k", "s")


def test_half_of_another_key_in_the_environment_is_left_there() -> None:
    assert complete_key("aws", None, OURS | AWS) == ("aws", "aws-secret")
    assert complete_key(None, "aws-secret", OURS | AWS) == ("aws", "aws-secret")
    with pytest.raises(WrongFlag, match="needs its secret: set PENSTOCK_S3_SECRET_ACCESS_KEY"):
        complete_key("k", None, OURS | AWS)
    with pytest.raises(WrongFlag, match="--secret-access-key needs --access-key-id"):
        complete_key(None, "s", AWS)


def test_a_key_of_a_session_is_refused_as_it_would_end() -> None:
    with pytest.raises(WrongFlag, match="AWS_SESSION_TOKEN is set"):
        complete_key(None, None, AWS | {"AWS_SESSION_TOKEN": "t"})
    # It is not about a key that was given otherwise.
    assert complete_key("k", "s", AWS | {"AWS_SESSION_TOKEN": "t"}) == ("k", "s")
