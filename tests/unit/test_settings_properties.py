"""Settings of any shape: refused by name, or safe and stable."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import json as msgjson

from penstock.base.errors import Invalid
from penstock.base.rng import seeded_rng
from penstock.http.pipeline_answers import pipeline_answer
from penstock.pipelines.layout import file_key
from penstock.pipelines.settings import PipelineDescription, PipelineSettings
from penstock.pipelines.settings_body import parse_settings
from penstock.storage.connection import S3Connection, S3Credentials, connect
from penstock.storage.secrets import SecretKey, Secrets

SECRETS = Secrets([SecretKey("k", b"k" * 32)], seeded_rng(1))
ULID = "01JDCMZZZZZZZZZZZZZZZZZZZZ"


def connected(endpoint: str, credentials: S3Credentials, region: str, path_style: bool) -> S3Connection:
    return connect(SECRETS, "account", endpoint, credentials, region=region, path_style=path_style)


def parse(body: dict[str, Any], current: PipelineSettings | None = None) -> PipelineSettings:
    return parse_settings(
        json.dumps(body).encode(), connect=connected, transforms=["clean", "enrich"], current=current
    )


nasty = st.sampled_from(
    [
        *("..", ".", "/", "//", "\\", "\0", "%2e%2e", "\u2025", "C:", "CON", "~", "_dead", "\ud800", "\u202e", "é"),
        *("${date}", "${year}", "${month}", "${day}", "${hr}", "${minute}", "${slug}", "${extension}"),
        *("a", "$", "${", "}", "${nope}"),
    ]
)
template = st.lists(nasty | st.text(max_size=3), max_size=8).map("".join)
COMPRESSION = st.sampled_from(["none", "gzip", "deflate", "zstd"])


@given(
    *(template, template, template.map(lambda text: text + "${slug}") | template, COMPRESSION),
    *(st.integers(0, 253_402_300_799_999), st.booleans()),
)
def test_G5_no_template_and_no_time_leaves_the_prefix(
    prefix: str, filepath: str, filename: str, compression: str, at_ms: int, dead: bool
) -> None:
    path = {"bucket": "bucket", "prefix": prefix, "filepath": filepath, "filename": filename}
    try:
        settings = parse(
            {"name": "p", "destination": {"path": path, "compression": {"type": compression}}},
        )
    except Invalid:
        return
    key = file_key(settings.layout, at_ms, ULID, dead=dead)
    below = "/".join(part for part in (prefix.strip("/"), "_dead" if dead else "") if part)
    assert key.startswith(below + "/" if below else "")
    parts = key.split("/")
    assert all(part not in ("", ".", "..") and "\\" not in part for part in parts)
    assert all(len(part.encode()) <= 255 for part in parts) and len(key.encode()) <= 1024
    assert not any(character < " " or character == "\x7f" for character in key)
    assert ULID in parts[-1], "not unique"
    assert ("_dead" in parts) == dead, "dead letters and data can be told apart"


words = st.text("abcdefghij-é ", min_size=1, max_size=12).filter(lambda text: text.strip("/ ") == text)
bodies = st.fixed_dictionaries(
    {
        "name": st.text("abcXYZ019-", min_size=1, max_size=20),
        "destination": st.fixed_dictionaries(
            {
                "path": st.fixed_dictionaries(
                    {"bucket": st.just("bucket")},
                    optional={
                        "prefix": words,
                        "filepath": st.sampled_from(["", "${date}", "y=${year}/m=${month}", "all"]),
                        "filename": st.sampled_from(["${slug}", "${hr}-${slug}${extension}", "${slug}.ndjson"]),
                    },
                )
            },
            optional={
                "type": st.just("r2"),
                "batch": st.fixed_dictionaries(
                    {},
                    optional={
                        "max_bytes": st.integers(1, 100_000_000),
                        "max_duration_s": st.floats(0.25, 300.0),
                        "max_rows": st.integers(1, 10_000_000),
                    },
                ),
                "compression": st.fixed_dictionaries({"type": COMPRESSION}),
                "credentials": st.none()
                | st.fixed_dictionaries(
                    {
                        "endpoint": st.sampled_from(["https://s3.example", "http://127.0.0.1:9000/"]),
                        "access_key_id": st.just("id"),
                        "secret_access_key": st.just("canary"),
                    },
                    optional={"region": st.sampled_from(["auto", "eu-1"]), "path_style": st.booleans()},
                ),
                "partition_time": st.none()
                | st.fixed_dictionaries(
                    {"field": words}, optional={"format": st.sampled_from(["rfc3339", "unix_s", "unix_ms"])}
                ),
            },
        ),
    },
    optional={
        "metadata": st.fixed_dictionaries({"shards": st.none() | st.integers(1, 15)}),
        "source": st.lists(
            st.fixed_dictionaries({"type": st.just("http")}, optional={"authentication": st.booleans()})
            | st.just({"type": "binding"}),
            min_size=1,
            max_size=2,
            unique_by=lambda source: str(source["type"]),
        ),
        "transforms": st.lists(st.sampled_from([{"name": "clean"}, {"name": "enrich"}]), max_size=8),
    },
)


@given(bodies)
def test_what_a_get_shows_can_be_put_and_changes_nothing(body: dict[str, Any]) -> None:
    settings = parse(body)
    shown = msgjson.encode(pipeline_answer(PipelineDescription("x", 1, settings), "http://x"))
    assert b"canary" not in shown
    assert parse(msgjson.decode(shown) | {"status": "running"}, settings) == settings


@given(bodies)
def test_what_is_stored_is_read_again(body: dict[str, Any]) -> None:
    settings = parse(body)
    assert msgjson.decode(msgjson.encode(settings), type=PipelineSettings) == settings
