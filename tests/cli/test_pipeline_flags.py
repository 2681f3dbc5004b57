"""The flags of `create` and `update` on their way into a request's body."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

S3 = {"endpoint": "https://s3.example", "region": "eu-1", "path_style": True}
KEY = ("--access-key-id", "k", "--secret-access-key", "s")


@pytest.fixture(autouse=True)
def credentials(server: Any, write_credentials: Callable[..., Path]) -> Path:
    return write_credentials(server.url)


@pytest.fixture
def created(run: Any, server: Any, pipeline: Any) -> Callable[..., Any]:
    """Gives the body of the request that `create` makes with these flags."""

    def create(*flags: str) -> Any:
        server.answer = lambda request: (200, {"success": True, "result": pipeline})
        outcome = run("pipelines", "create", "clicks", "--bucket", "b", *flags)
        assert outcome.code == 0, outcome.err
        return server.requests[-1].body

    return create


@pytest.fixture
def updated(run: Any, server: Any, pipeline: Any) -> Callable[..., Any]:
    def update(*flags: str) -> Any:
        server.answer = lambda request: (200, {"success": True, "result": pipeline})
        outcome = run("pipelines", "update", "clicks", *flags)
        assert outcome.code == 0, outcome.err
        return server.requests[-1].body

    return update


@pytest.fixture
def refused(run: Any, server: Any, pipeline: Any) -> Callable[..., str]:
    """Gives the words with which the command itself refuses these flags; nothing is changed at the server."""

    def refuse(*arguments: str) -> str:
        server.answer = lambda request: (200, {"success": True, "result": pipeline})
        outcome = run("pipelines", *arguments)
        assert outcome.code == 2
        assert [request for request in server.requests if request.method != "GET"] == []
        return str(outcome.err.splitlines()[-1])

    return refuse


@pytest.mark.parametrize(
    "words", [("--access-key-id", "--secret-access-key"), ("--r2-access-key-id", "--r2-secret-access-key")]
)
def test_an_endpoint_with_its_key_makes_credentials_in_wranglers_words_too(created: Any, words: Any) -> None:
    body = created(
        *("--endpoint", "https://s3.example", "--region", "eu-1", "--no-path-style", words[0], "k", words[1], "s")
    )
    assert body["destination"]["credentials"] == {
        "endpoint": "https://s3.example",
        "region": "eu-1",
        "path_style": False,
        "access_key_id": "k",
        "secret_access_key": "s",
    }


def test_without_an_endpoint_there_are_no_credentials_whatever_the_environment_has(
    created: Any, updated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert "credentials" not in created()["destination"]
    assert "credentials" not in updated("--bucket", "other")["destination"]


def test_the_secret_may_come_from_the_environment(
    created: Any, updated: Any, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_S3_SECRET_ACCESS_KEY", "s")
    made = created("--endpoint", "https://s3.example", "--access-key-id", "k")
    assert made["destination"]["credentials"]["secret_access_key"] == "s"
    pipeline["destination"]["credentials"] = S3
    changed = updated("--access-key-id", "k2")["destination"]["credentials"]
    assert changed == S3 | {"access_key_id": "k2", "secret_access_key": "s"}


def test_an_update_of_the_region_keeps_the_key_and_one_of_the_endpoint_nothing(updated: Any, pipeline: Any) -> None:
    pipeline["destination"]["credentials"] = S3
    assert updated("--region", "eu-2")["destination"]["credentials"] == S3 | {"region": "eu-2"}
    assert updated("--endpoint", "https://s3.example/")["destination"]["credentials"] == S3 | {
        "endpoint": "https://s3.example/"
    }
    # Region and path style were those of the other server.
    assert updated("--endpoint", "https://r2.example", *KEY)["destination"]["credentials"] == {
        "endpoint": "https://r2.example",
        "access_key_id": "k",
        "secret_access_key": "s",
    }


def test_local_takes_a_pipeline_back_to_a_folder_of_the_server(updated: Any, pipeline: Any) -> None:
    pipeline["destination"]["credentials"] = S3
    assert updated("--local")["destination"]["credentials"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "clicks", "--bucket", "b", "--endpoint", "https://s3.example"), "--endpoint needs a key: pass"),
        (("create", "clicks", "--bucket", "b", *KEY), "--access-key-id needs --endpoint"),
        (("create", "clicks", "--bucket", "b", "--access-key-id", "k"), "--access-key-id needs its secret"),
        (("create", "clicks", "--bucket", "b", "--region", "x"), "--region needs --endpoint"),
        (("update", "clicks", "--no-path-style"), "--path-style needs --endpoint"),
        (("update", "clicks", "--local", "--region", "x"), "--local and --region contradict each other."),
        (("create", "clicks", "--bucket", "b", "--partition-format", "unix_s"), "needs --partition-by"),
        (("update", "clicks", "--partition-by", "t", "--no-partition-by"), "contradict each other."),
        (("update", "clicks", "--transform", "t", "--no-transforms"), "contradict each other."),
    ],
)
def test_flags_that_do_not_fit_together_are_refused_before_anything_happens(
    refused: Any, arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused(*arguments)


def test_templates_compression_and_transforms_are_passed_on(created: Any) -> None:
    body = created(
        *("--filepath", "${year}/${month}", "--filename", "${slug}", "--compression", "zstd"),
        *("--transform", "clean", "--transform", "enrich"),
    )
    assert body["destination"]["path"] == {"bucket": "b", "filepath": "${year}/${month}", "filename": "${slug}"}
    assert body["destination"]["compression"] == {"type": "zstd"}
    assert body["transforms"] == [{"name": "clean"}, {"name": "enrich"}]


def test_transforms_are_taken_away_with_a_flag_and_stay_without_one(updated: Any, pipeline: Any) -> None:
    pipeline["transforms"] = [{"name": "clean"}]
    assert updated("--compression", "deflate")["transforms"] == [{"name": "clean"}]
    assert updated("--no-transforms")["transforms"] == []


def test_partitions_are_by_a_field_of_the_records_until_that_is_taken_away(
    created: Any, updated: Any, pipeline: Any
) -> None:
    assert created("--partition-by", "at")["destination"]["partition_time"] == {"field": "at"}
    both = created("--partition-by", "at", "--partition-format", "unix_ms")
    assert both["destination"]["partition_time"] == {"field": "at", "format": "unix_ms"}
    pipeline["destination"]["partition_time"] = {"field": "at", "format": "unix_s"}
    time = updated("--partition-by", "ts")["destination"]["partition_time"]
    assert time == {"field": "ts", "format": "unix_s"}
    assert "partition_time" not in updated("--no-partition-by")["destination"]


def test_folders_that_a_shell_took_the_variables_of_are_worth_a_word(run: Any, server: Any, pipeline: Any) -> None:
    server.answer = lambda request: (200, {"success": True, "result": pipeline})
    outcome = run("pipelines", "create", "clicks", "--bucket", "b", "--filepath", "event_date=/hr=")
    assert "all files go into one folder" in outcome.err and "single quotes" in outcome.err
    assert "single quotes" not in run("pipelines", "create", "clicks", "--bucket", "b", "--filepath", "").err


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("destination.path.filename must have ${slug} in it", "--filename must have ${slug} in it"),
        ("destination.credentials.endpoint is no URL", "--endpoint is no URL"),
        (
            "destination.credentials needs access_key_id and secret_access_key for this endpoint",
            "--endpoint needs --access-key-id and --secret-access-key for this endpoint",
        ),
        (
            "destination cannot be used: … answered 301. Check endpoint, region and path_style.",
            "destination cannot be used: … answered 301. Check endpoint, region and --path-style.",
        ),
        (
            "transforms names 'x', which the application has not",
            "--transform names 'x', which the application has not",
        ),
        ("destination.partition_time.field must be 1 to 256", "--partition-by must be 1 to 256"),
    ],
)
def test_what_the_server_says_about_a_field_is_said_about_the_flag(
    run: Any, server: Any, message: str, shown: str
) -> None:
    server.answer = lambda request: (400, {"errors": [{"code": 1012, "message": message}]})
    outcome = run("pipelines", "create", "clicks", "--bucket", "b")
    assert outcome.err.splitlines()[-1] == f"error: {shown} [code: 1012]"


def test_no_secret_shows_in_what_flags_look_like() -> None:
    from penstock.cli.pipeline_settings import Flags

    assert "hush" not in repr(Flags(secret_access_key="hush"))
