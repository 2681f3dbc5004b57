import json

import pytest

from penstock.base.errors import Invalid
from penstock.base.rng import seeded_rng
from penstock.pipelines import settings_body
from penstock.pipelines.settings import PipelineSettings
from penstock.storage.connection import S3Connection, S3Credentials, connect
from penstock.storage.secrets import SecretKey, Secrets

SECRETS = Secrets([SecretKey("k", b"k" * 32)], seeded_rng(1))


def connected(endpoint: str, credentials: S3Credentials, region: str, path_style: bool) -> S3Connection:
    return connect(SECRETS, "account", endpoint, credentials, region=region, path_style=path_style)


def parse_settings(body: bytes, current: PipelineSettings | None = None) -> PipelineSettings:
    return settings_body.parse_settings(body, connect=connected, transforms=["clean"], current=current)


def body(**changes: object) -> bytes:
    whole = {"name": "clicks", "destination": {"type": "r2", "format": "json", "path": {"bucket": "my-bucket"}}}
    return json.dumps(whole | changes).encode()


def with_destination(**changes: object) -> bytes:
    return body(destination={"path": {"bucket": "my-bucket"}} | changes)


def with_path(**changes: object) -> bytes:
    return with_destination(path={"bucket": "my-bucket"} | changes)


KEYS = {"access_key_id": "id", "secret_access_key": "secret"}


def test_defaults_are_those_of_the_api() -> None:
    settings = parse_settings(body())
    assert settings.rolling.bytes_max == 100_000_000
    assert settings.rolling.duration_ms_max == 300_000
    assert settings.rolling.records_max == 10_000_000
    assert settings.compression == "gzip"
    assert settings.http is not None and not settings.http.authentication
    assert settings.shards is None


CREDENTIALS = {"endpoint": "https://s3.example", "access_key_id": "id", "secret_access_key": "canary"}


def test_g10_credentials_are_kept_sealed() -> None:
    settings = parse_settings(with_destination(credentials=CREDENTIALS))
    assert settings.s3 is not None
    assert settings.s3.endpoint == "https://s3.example"
    assert "canary" not in repr(settings)


def test_credentials_that_are_left_out_stay_and_null_takes_them_away() -> None:
    before = parse_settings(with_destination(credentials=CREDENTIALS))
    assert parse_settings(with_destination(), before).s3 == before.s3
    shown = {"endpoint": "https://s3.example", "region": "eu-1", "path_style": False}
    after = parse_settings(with_destination(credentials=shown), before).s3
    assert before.s3 is not None and after is not None
    assert (after.credentials, after.region, after.path_style) == (before.s3.credentials, "eu-1", False)
    assert parse_settings(with_destination(credentials=None), before).s3 is None


def test_a_key_is_not_sent_to_another_endpoint() -> None:
    before = parse_settings(with_destination(credentials=CREDENTIALS))
    with pytest.raises(Invalid, match="no key is known"):
        parse_settings(with_destination(credentials={"endpoint": "https://evil.example"}), before)


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
        (
            with_destination(compression={"type": "lzma"}),
            1012,
            r"^destination\.compression\.type must be 'gzip', 'zstd', 'deflate' or 'none'\.$",
        ),
        (with_destination(path={"bucket": "My_Bucket"}), 1012, "bucket must be 3 to 63"),
        (with_destination(path={"bucket": ".."}), 1012, "bucket"),
        (with_path(filename="data.json"), 1012, r"^destination\.path\.filename must have \$\{slug\} in it"),
        (with_path(filename="${nope}"), 1012, r"filename has the variable \$\{nope\}; there are .*\$\{slug\}"),
        (with_path(filename="a/${slug}"), 1012, "folders belong into filepath"),
        (with_path(filepath="${slug}"), 1012, r"filepath has the variable \$\{slug\}; there are \$\{date\}"),
        (with_path(filepath="../x"), 1012, "no '.' or '..'"),
        (with_path(filepath="$date"), 1012, "starts no variable"),
        (body(transforms=[{"name": "nope"}]), 1012, "names 'nope', which the application has not; it has clean"),
        (body(transforms=[{"name": "clean"}] * 9), 1012, "transforms must be at most 8"),
        (with_destination(partition_time={"field": ""}), 1012, "partition_time.field must be 1 to 256"),
        (with_destination(partition_time={"field": "x" * 257}), 1012, "partition_time.field must be 1 to 256"),
        (
            with_destination(partition_time={"field": 'a"t'}),
            1012,
            "field must be .* without quotation",
        ),
        (with_destination(partition_time={"field": "a\\t"}), 1012, "partition_time.field .* backslashes"),
        (with_destination(partition_time={"field": "a\nt"}), 1012, "partition_time.field .* control characters"),
        (
            with_path(filename="x" * 245 + "${slug}"),
            1012,
            r"^destination\.path makes names of 271 bytes .*; file systems take 255 at most",
        ),
        (
            with_path(prefix="/".join(["\u20ac" * 84] * 5)),
            1012,
            r"^destination\.path makes keys of 1\d{3} bytes .*; S3 takes 1024 at most",
        ),
        (
            with_destination(partition_time={"field": "at", "format": "guess"}),
            1012,
            r"^destination\.partition_time\.format must be 'rfc3339', 'unix_s' or 'unix_ms'\.$",
        ),
        (
            with_destination(credentials={"endpoint": "ftp://x"} | KEYS),
            1012,
            "credentials.endpoint must be the http",
        ),
        (with_destination(credentials={"endpoint": "http://x"}), 1012, "needs access_key_id and secret_access_key"),
        (
            with_destination(credentials={"endpoint": "http://x", "access_key_id": "k"}),
            1012,
            "both access_key_id and secret_access_key",
        ),
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
