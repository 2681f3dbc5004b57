"""Where buckets are: checked where it enters, its key sealed."""

from __future__ import annotations

import msgspec
import pytest

from penstock.base.errors import Corrupt, Invalid
from penstock.base.rng import seeded_rng
from penstock.storage.connection import (
    S3Credentials,
    checked_credentials,
    checked_endpoint,
    checked_region,
    connect,
    open_credentials,
)
from penstock.storage.secrets import Secrets, new_secret_key

SECRETS = Secrets([new_secret_key(seeded_rng(1))], seeded_rng(2))
CANARY = "canary-0c5a"
KEY = S3Credentials("AKIA", CANARY)


@pytest.mark.parametrize(
    ("endpoint", "result"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "https://s3.eu-central-1.amazonaws.com"),
        ("http://127.0.0.1:8333/", "http://127.0.0.1:8333"),
        ("http://[::1]:8333", "http://[::1]:8333"),
        ("https://proxy.example/s3/", "https://proxy.example/s3"),
    ],
)
def test_an_endpoint_is_an_http_url(endpoint: str, result: str) -> None:
    assert checked_endpoint(endpoint, "endpoint") == result


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "s3.example.com",
        "ftp://s3.example.com",
        "https://",
        "https:///bucket",
        f"https://user:{CANARY}@s3.example.com",
        f"https://s3.example.com/?key={CANARY}",
        f"https://s3.example.com#{CANARY}",
        "https://s3.example.com?",
        "https://s3.example.com:0",
        "https://s3.example.com:99999",
        "https://s3.example.com:port",
        "https://[::1",
        "https://s3 .example.com",
        "https://s3.exämple.com",
        "https://s3.example.com\n",
        "https://" + "a" * 2000,
    ],
)
def test_anything_else_is_refused_by_the_name_of_its_field(endpoint: str) -> None:
    with pytest.raises(Invalid, match=r"^destination\.credentials\.endpoint ") as caught:
        connect(SECRETS, "p", endpoint, KEY)
    assert CANARY not in caught.value.message


@pytest.mark.parametrize("region", ["auto", "us-east-1", "x", "garage"])
def test_a_region_is_a_word(region: str) -> None:
    assert checked_region(region, "region") == region


@pytest.mark.parametrize("region", ["", "-", "eu_west", "eu west", "a" * 65, "x\n", "a/b"])
def test_a_region_that_is_none_is_refused(region: str) -> None:
    with pytest.raises(Invalid, match=r"^destination\.credentials\.region must be"):
        connect(SECRETS, "p", "https://h", KEY, region=region)


@pytest.mark.parametrize(
    ("credentials", "field"),
    [
        (S3Credentials("", "secret"), "access_key_id"),
        (S3Credentials("id\r\nx: y", "secret"), "access_key_id"),
        (S3Credentials("i" * 257, "secret"), "access_key_id"),
        (S3Credentials("id", ""), "secret_access_key"),
        (S3Credentials("id", f"{CANARY} "), "secret_access_key"),
        (S3Credentials("id", f"{CANARY}é"), "secret_access_key"),
    ],
)
def test_G10_credentials_that_cannot_be_are_refused_without_repeating_them(
    credentials: S3Credentials, field: str
) -> None:
    with pytest.raises(Invalid, match=rf"^f\.{field} must be 1 to") as caught:
        checked_credentials(credentials, "f")
    assert CANARY not in caught.value.message


def test_G10_a_connection_shows_no_secret_and_opens_again() -> None:
    connection = connect(SECRETS, "p", "https://h/", KEY, region="eu-1", path_style=False)
    assert (connection.endpoint, connection.region, connection.path_style) == ("https://h", "eu-1", False)
    assert open_credentials(SECRETS, connection) == KEY
    for shown in (repr(connection), msgspec.json.encode(connection).decode(), repr(KEY), str(KEY)):
        assert CANARY not in shown


@pytest.mark.parametrize("change", [{"owner": "q"}, {"endpoint": "https://evil"}])
def test_credentials_open_neither_for_another_owner_nor_for_another_endpoint(change: dict[str, str]) -> None:
    connection = connect(SECRETS, "p", "https://h", KEY)
    with pytest.raises(Corrupt):
        open_credentials(SECRETS, msgspec.structs.replace(connection, **change))
