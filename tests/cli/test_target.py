from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.cli.errors import CliError
from penstock.cli.target import Setting, read_target

WriteCredentials = Callable[..., Path]
ENVIRON = {
    "PENSTOCK_URL": "http://127.0.0.1:2",
    "PENSTOCK_TOKEN": "of-the-environment",
    "PENSTOCK_ACCOUNT_ID": "e" * 32,
}


def test_everything_comes_from_the_credentials_file_when_nothing_else_is_given(
    write_credentials: WriteCredentials,
) -> None:
    path = write_credentials("http://127.0.0.1:1/")
    target = read_target(data_dir=path.parent, environ={})
    assert target.url == Setting("http://127.0.0.1:1", str(path))
    assert target.token == Setting("secret-of-the-file", str(path))


def test_the_environment_comes_before_the_file(write_credentials: WriteCredentials) -> None:
    target = read_target(data_dir=write_credentials("http://127.0.0.1:1").parent, environ=ENVIRON)
    assert target.url == Setting("http://127.0.0.1:2", "PENSTOCK_URL")
    assert target.token == Setting("of-the-environment", "PENSTOCK_TOKEN")
    assert target.account_id == Setting("e" * 32, "PENSTOCK_ACCOUNT_ID")


def test_flags_come_before_the_environment(write_credentials: WriteCredentials) -> None:
    target = read_target(
        data_dir=write_credentials("http://127.0.0.1:1").parent,
        environ=ENVIRON,
        url="http://127.0.0.1:3",
        account_id="f" * 32,
        token="of-the-flag",
    )
    assert target.url == Setting("http://127.0.0.1:3", "--url")
    assert target.token == Setting("of-the-flag", "--token")
    assert target.account_id == Setting("f" * 32, "--account-id")


def test_each_value_is_looked_for_on_its_own(write_credentials: WriteCredentials) -> None:
    path = write_credentials("http://127.0.0.1:1")
    target = read_target(data_dir=path.parent, environ={"PENSTOCK_TOKEN": "mine"})
    assert (target.url.origin, target.token.origin) == (str(path), "PENSTOCK_TOKEN")


def test_a_file_that_is_not_needed_may_be_broken(write_credentials: WriteCredentials) -> None:
    path = write_credentials("http://127.0.0.1:1")
    path.write_text("not toml")
    assert read_target(data_dir=path.parent, environ=ENVIRON).token.value == "of-the-environment"


def test_a_broken_file_that_is_needed_is_named(write_credentials: WriteCredentials) -> None:
    path = write_credentials("http://127.0.0.1:1")
    path.write_text("not toml")
    with pytest.raises(CliError, match=r"credentials\.toml is not valid TOML"):
        read_target(data_dir=path.parent, environ={})


def test_without_any_credentials_it_says_all_the_ways_to_give_them(tmp_path: Path) -> None:
    with pytest.raises(CliError) as error:
        read_target(data_dir=tmp_path, environ={})
    for way in ("penstock serve", "--data-dir", "--account-id", "PENSTOCK_ACCOUNT_ID", "credentials.toml"):
        assert way in str(error.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8787", "ftp://host", "http://", "http://[", "http://host:port"])
def test_what_is_not_a_url_is_refused_with_its_origin(tmp_path: Path, url: str) -> None:
    with pytest.raises(CliError, match="PENSTOCK_URL"):
        read_target(data_dir=tmp_path, environ=ENVIRON | {"PENSTOCK_URL": url})
