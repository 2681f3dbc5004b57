"""A pipeline's settings, as they are stored: checked, defaults filled in, no secret in the clear."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from penstock.base import limits
from penstock.pipelines.layout import FILENAME_DEFAULT, FILEPATH_DEFAULT, Compression, Layout
from penstock.pipelines.preparation import PartitionTime
from penstock.pipelines.rolling import Rolling
from penstock.storage.connection import S3Connection


class Cors(Struct, frozen=True, forbid_unknown_fields=True):
    """Pages of these origins may see the endpoint's answers; "*" is any."""

    origins: Annotated[
        list[str],
        Meta(
            description="Like `https://example.com` (scheme, host and maybe a port), or `*` for any.",
            extra_json_schema={"maxItems": limits.CORS_ORIGINS_MAX},
            examples=[["https://example.com"]],
        ),
    ] = []


class HttpSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="http"):
    """Records come by HTTP; with `authentication` a token is needed."""

    format: Literal["json"] = "json"
    authentication: Annotated[
        bool, Meta(description="Whether a token with the scope `pipelines:send` is needed.")
    ] = False
    cors: Annotated[
        Cors | UnsetType | None, Meta(description="Which web pages may send and see the answers; else none.")
    ] = UNSET


class BindingSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="binding"):
    """Records come from code. Accepted for compatibility; the HTTP endpoint serves code too."""

    format: Literal["json"] = "json"


Source = HttpSource | BindingSource


class BatchHints(Struct, frozen=True, forbid_unknown_fields=True):
    """A file is cut at the first of these."""

    max_bytes: Annotated[
        int,
        Meta(
            ge=limits.BATCH_BYTES_MAX_RANGE[0],
            le=limits.BATCH_BYTES_MAX_RANGE[1],
            description="Bytes of its records as NDJSON, before compression.",
        ),
    ] = limits.BATCH_BYTES_MAX_DEFAULT
    max_duration_s: Annotated[
        float,
        Meta(
            ge=limits.BATCH_SECONDS_MAX_RANGE[0],
            le=limits.BATCH_SECONDS_MAX_RANGE[1],
            description="Seconds since its first record came.",
        ),
    ] = limits.BATCH_SECONDS_MAX_DEFAULT
    max_rows: Annotated[
        int,
        Meta(
            ge=limits.BATCH_RECORDS_MAX_RANGE[0],
            le=limits.BATCH_RECORDS_MAX_RANGE[1],
            description="Number of its records.",
        ),
    ] = limits.BATCH_RECORDS_MAX_DEFAULT


class TransformRef(Struct, frozen=True, forbid_unknown_fields=True):
    """A transform of the application, by the name it has there."""

    name: Annotated[str, Meta(description="That of `@app.transform`.", examples=["clean"])]


class PipelineSettings(Struct, frozen=True):
    """What a coordinator stores of one generation. `s3` is None for the folders of this machine."""

    name: str
    source: list[Source]
    bucket: str
    prefix: str
    batch: BatchHints
    compression: Compression
    shards: int | None
    s3: S3Connection | None = None
    filepath: str = FILEPATH_DEFAULT
    filename: str = FILENAME_DEFAULT
    partition_time: PartitionTime | None = None
    transforms: list[TransformRef] = []

    @property
    def http(self) -> HttpSource | None:
        """The HTTP source, None if records may not come that way."""
        return next((source for source in self.source if isinstance(source, HttpSource)), None)

    @property
    def rolling(self) -> Rolling:
        batch = self.batch
        return Rolling(batch.max_bytes, round(batch.max_duration_s * 1000), batch.max_rows)

    @property
    def layout(self) -> Layout:
        return Layout(self.prefix, self.filepath, self.filename, self.compression)


class PipelineDescription(Struct, frozen=True):
    """A pipeline as it is: `version` grows with each change of settings."""

    id: str
    version: int
    settings: PipelineSettings
