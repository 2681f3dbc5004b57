import json

import pytest

from penstock.base.errors import Invalid
from penstock.pipelines.settings import parse_settings


def body(**changes: object) -> bytes:
    whole = {"name": "clicks", "destination": {"type": "r2", "format": "json", "path": {"bucket": "my-bucket"}}}
    return json.dumps(whole | changes).encode()


def with_destination(**changes: object) -> bytes:
    return body(destination={"path": {"bucket": "my-bucket"}} | changes)


def test_defaults_are_those_of_the_api() -> None:
    settings = parse_settings(body())
    assert settings.rolling.bytes_max == 100_000_000
    assert settings.rolling.duration_ms_max == 300_000
    assert settings.rolling.records_max == 10_000_000
    assert settings.compression == "gzip"
    assert settings.http is not None and not settings.http.authentication
    assert settings.shards is None


def test_credentials_are_accepted_and_not_kept() -> None:
    settings = parse_settings(with_destination(credentials={"endpoint": "e", "secret_access_key": "canary"}))
    assert "canary" not in repr(settings)


def test_what_a_get_answers_can_be_put() -> None:
    assert parse_settings(body(id="x", endpoint="http://x", version=3)).name == "clicks"


def test_a_prefix_loses_its_slashes_at_the_ends() -> None:
    settings = parse_settings(with_destination(path={"bucket": "my-bucket", "prefix": "/raw/eu/"}))
    assert settings.prefix == "raw/eu"


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"{", 1012, r"^The body is not JSON \(input data was truncated\)\.$"),
        (b'{"name":"\xff"}', 1012, r"^The body is not JSON \(it is not UTF-8\)\.$"),
        (b"[]", 1012, r"^The pipeline's settings must be a JSON object\.$"),
        (b"{}", 1012, r"^name is required\.$"),
        (body(name=7), 1012, "^name must be 1 to 128"),
        (b'{"id":' + b"[" * 9000, 1012, "nested too deeply"),
        (body(name="no spaces"), 2, "name must be 1 to 128"),
        (body(name=""), 2, "name"),
        (body(name="x" * 129), 2, "128"),
        (body(name="../etc"), 2, "name"),
        (
            body(surprise=1),
            1012,
            r"^surprise is not known; a pipeline may have name, source, .* and destination\.$",
        ),
        (body(metadata={"shards": 16}), 1012, r"^metadata\.shards must be a whole number from 1 to 15, or null\.$"),
        (body(metadata={"shards": 0}), 1012, r"^metadata\.shards must be a whole number from 1 to 15, or null\.$"),
        (body(source=[]), 1012, "source"),
        (body(source=[{"type": "http"}, {"type": "http"}]), 1012, "each once"),
        (body(source=[{"type": "kafka"}]), 1012, r"^source\.type must be 'http' or 'binding'\.$"),
        (body(source=[{}]), 1012, r"^source\.type is required\.$"),
        (body(source=[{"type": "binding", "cors": None}]), 1012, r"^source\.cors is not known; 'http' may have "),
        (
            body(source=[{"type": "http", "authentication": "yes"}]),
            1012,
            r"authentication must be true or false\.$",
        ),
        (body(source=[{"type": "http", "cors": {"origins": ["*", "x"]}}]), 1012, r"origins\[1\] is 'x'"),
        (body(source=[{"type": "http", "cors": {"origins": "*"}}]), 1012, "must be a list of origins"),
        (body(transforms=["x"]), 1012, "transforms"),
        (with_destination(batch={"max_bytes": 0}), 1012, "max_bytes"),
        (
            with_destination(batch={"max_bytes": 100_000_001}),
            1012,
            r"^destination\.batch\.max_bytes must be a whole number from 1 to 100,000,000\.$",
        ),
        (
            with_destination(batch={"max_duration_s": 0.1}),
            1012,
            r"^destination\.batch\.max_duration_s must be a number from 0\.25 to 300\.$",
        ),
        (
            with_destination(batch={"max_duration_s": 301}),
            1012,
            r"^destination\.batch\.max_duration_s must be a number from 0\.25 to 300\.$",
        ),
        (with_destination(batch={"max_rows": 0}), 1012, "max_rows"),
        (
            with_destination(batch={"max_rows": "1"}),
            1012,
            r"max_rows must be a whole number from 1 to 10,000,000\.$",
        ),
        (
            with_destination(batch={"max_row": 1}),
            1012,
            r"^destination\.batch\.max_row is not known; .* max_rows\.$",
        ),
        (with_destination(path={}), 1012, r"^destination\.path\.bucket is required\.$"),
        (with_destination(type="s3"), 1012, r"^destination\.type must be 'r2'\.$"),
        (with_destination(compression={"type": "deflate"}), 1012, "use 'gzip' or 'none'"),
        (
            with_destination(compression={"type": "lzma"}),
            1012,
            r"^destination\.compression\.type must be 'gzip' or 'none'\.$",
        ),
        (with_destination(path={"bucket": "My_Bucket"}), 1012, "bucket must be 3 to 63"),
        (with_destination(path={"bucket": ".."}), 1012, "bucket"),
        (with_destination(path={"bucket": "my-bucket", "filename": "${slug}"}), 1012, "filename"),
    ],
)
def test_what_is_wrong_is_refused_naming_the_field_and_the_limit(body: bytes, code: int, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        parse_settings(body)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "prefix", ["..", "a/../b", "./a", "a//b", "a\x00b", "a\nb", "a\\b", "x" * 513, "é" * 200, "a/\x7f"]
)
def test_g5_a_prefix_cannot_leave_its_bucket(prefix: str) -> None:
    with pytest.raises(Invalid, match="prefix"):
        parse_settings(with_destination(path={"bucket": "my-bucket", "prefix": prefix}))
