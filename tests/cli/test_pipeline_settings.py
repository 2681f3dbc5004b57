from __future__ import annotations

import copy
from typing import Any

import pytest

from penstock.cli.errors import ApiError, CliError
from penstock.cli.pipeline_settings import (
    Flags,
    describe,
    in_words_of_flags,
    merge,
    requires_http_auth,
    split_origins,
)


def test_a_new_pipeline_has_both_sources_and_the_published_defaults() -> None:
    assert describe("clicks", Flags(bucket="b")) == {
        "name": "clicks",
        "metadata": {},
        "source": [
            {"type": "http", "format": "json", "authentication": False},
            {"type": "binding", "format": "json"},
        ],
        "transforms": [],
        "destination": {
            "type": "r2",
            "format": "json",
            "batch": {"max_bytes": 100_000_000, "max_duration_s": 300, "max_rows": 10_000_000},
            "compression": {"type": "gzip"},
            "path": {"bucket": "b"},
        },
    }


def test_every_flag_has_its_place_in_the_description() -> None:
    body = describe(
        "clicks",
        Flags(
            bucket="b",
            prefix="p",
            batch_max_mb=1.5,
            batch_max_rows=7,
            batch_max_seconds=0.5,
            compression="none",
            require_http_auth=True,
            shard_count=3,
            sources=("http",),
            cors_origins=("https://a.example", "*"),
        ),
    )
    assert body["metadata"] == {"shards": 3}
    cors = {"origins": ["https://a.example", "*"]}
    assert body["source"] == [{"type": "http", "format": "json", "authentication": True, "cors": cors}]
    assert body["destination"]["batch"] == {"max_bytes": 1_500_000, "max_duration_s": 0.5, "max_rows": 7}
    assert body["destination"]["compression"] == {"type": "none"}
    assert body["destination"]["path"] == {"bucket": "b", "prefix": "p"}


def test_origins_may_be_repeated_or_have_commas_between_and_one_empty_clears_them() -> None:
    assert split_origins(["https://a.example, https://b.example", "*"]) == (
        "https://a.example",
        "https://b.example",
        "*",
    )
    cleared = merge(describe("clicks", Flags(bucket="b")), Flags(cors_origins=split_origins([""])))
    assert cleared["source"][0]["cors"] == {"origins": []}


def test_what_the_server_says_about_one_origin_is_said_about_the_flag() -> None:
    error = in_words_of_flags(ApiError("source.cors.origins[1] is 'x'; it must be", status=400, code=1012))
    assert str(error) == "--cors-origins is 'x'; it must be"


def test_whole_seconds_are_sent_as_an_integer() -> None:
    body = describe("clicks", Flags(bucket="b", batch_max_seconds=10.0))
    assert repr(body["destination"]["batch"]["max_duration_s"]) == "10"


def test_a_merge_changes_what_the_flags_name_and_nothing_else(pipeline: dict[str, Any]) -> None:
    expected = copy.deepcopy(pipeline)
    expected["destination"]["batch"]["max_duration_s"] = 10
    assert merge(pipeline, Flags(batch_max_seconds=10)) == expected


def test_a_merge_leaves_its_input_alone(pipeline: dict[str, Any]) -> None:
    before = copy.deepcopy(pipeline)
    merge(pipeline, Flags(bucket="other", require_http_auth=True, shard_count=9, sources=("binding", "http")))
    assert pipeline == before


def test_an_empty_prefix_removes_the_prefix(pipeline: dict[str, Any]) -> None:
    assert merge(pipeline, Flags(prefix=""))["destination"]["path"]["prefix"] == ""


def test_choosing_sources_keeps_the_settings_of_those_that_stay(pipeline: dict[str, Any]) -> None:
    assert merge(pipeline, Flags(sources=("http",)))["source"] == [pipeline["source"][0]]


def test_a_source_named_twice_is_one_source(pipeline: dict[str, Any]) -> None:
    assert len(merge(pipeline, Flags(sources=("binding", "binding")))["source"]) == 1


def test_authentication_can_be_switched_on_and_off(pipeline: dict[str, Any]) -> None:
    guarded = merge(pipeline, Flags(require_http_auth=True))
    assert requires_http_auth(guarded)
    assert not requires_http_auth(merge(guarded, Flags(require_http_auth=False)))


def test_authentication_without_an_http_source_is_refused() -> None:
    with pytest.raises(CliError, match="--source http"):
        describe("clicks", Flags(bucket="b", sources=("binding",), require_http_auth=True))
