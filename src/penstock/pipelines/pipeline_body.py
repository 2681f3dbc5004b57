"""The body of the control API for pipelines (Cloudflare's legacy pipelines API): its fields, and what clients are
told of them.

Bounds that are part of a type are held by the decoder; what stands in `_said` is for `http/openapi.py` alone, and
held by `settings_body.py`, in words of ours.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from penstock.base import limits
from penstock.pipelines.layout import FILENAME_DEFAULT, FILEPATH_DEFAULT, Compression
from penstock.pipelines.preparation import PartitionTime
from penstock.pipelines.settings import BatchHints, BindingSource, HttpSource, Source, TransformRef
from penstock.storage.bucket_names import BUCKET_NAME
from penstock.storage.connection import REGION_DEFAULT

NAME = re.compile(rf"[a-zA-Z0-9-]{{1,{limits.PIPELINE_NAME_LENGTH_MAX}}}")


def _said(description: str, **schema: Any) -> Meta:
    return Meta(description=description, extra_json_schema=schema or None)


class CompressionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    type: Annotated[Compression, _said("Of files; `deflate` is the zlib format.")] = "gzip"


class Path(Struct, frozen=True, forbid_unknown_fields=True):
    """Where files go."""

    bucket: Annotated[
        str,
        _said(
            "3 to 63 of a-z, 0-9 and '-', first and last a letter or digit.",
            pattern=f"^{BUCKET_NAME.pattern}$",
            examples=["my-bucket"],
        ),
    ]
    prefix: Annotated[
        str,
        _said(
            "Before the folder of each file. Parts between slashes have 1 to 255 bytes; none is `.` or `..` or "
            "begins with `_dead`; no backslash, no control characters.",
            maxLength=limits.PREFIX_LENGTH_MAX,
            examples=["raw/web"],
        ),
    ] = ""
    #: Templates (`layout.py`).
    filename: Annotated[
        str | None,
        _said(
            "A template without a slash. Has `${slug}`, a ULID; may have `${extension}` and the variables of "
            f"`filepath`. Null: `{FILENAME_DEFAULT}`.",
            maxLength=limits.TEMPLATE_LENGTH_MAX,
            examples=[FILENAME_DEFAULT],
        ),
    ] = None
    filepath: Annotated[
        str | None,
        _said(
            "A template of the folder, with `${date}`, `${year}`, `${month}`, `${day}`, `${hr}` and `${minute}` "
            f"in UTC. Null: `{FILEPATH_DEFAULT}`.",
            maxLength=limits.TEMPLATE_LENGTH_MAX,
            examples=[FILEPATH_DEFAULT],
        ),
    ] = None


class Credentials(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the bucket is, if not on this machine. The keys are write-only: an answer has none, and what is sent
    without them keeps those that there are."""

    endpoint: Annotated[
        str,
        _said(
            "URL of a server of the S3 protocol.",
            pattern="^https?://",
            maxLength=limits.S3_ENDPOINT_LENGTH_MAX,
            examples=["https://s3.eu-central-1.amazonaws.com"],
        ),
    ]
    access_key_id: Annotated[
        str | None,
        _said(
            "Printable ASCII without blanks. Needed with a new endpoint.",
            maxLength=limits.ACCESS_KEY_ID_LENGTH_MAX,
            writeOnly=True,
        ),
    ] = None
    secret_access_key: Annotated[
        str | None,
        _said(
            "Printable ASCII without blanks. Needed with a new endpoint.",
            maxLength=limits.SECRET_ACCESS_KEY_LENGTH_MAX,
            writeOnly=True,
        ),
    ] = None
    region: Annotated[str, _said("Letters, digits and dashes.", maxLength=limits.S3_REGION_LENGTH_MAX)] = (
        REGION_DEFAULT
    )
    path_style: Annotated[bool, _said("Name the bucket in the URL's path; else in its host.")] = True

    def __repr__(self) -> str:
        return "Credentials(...)"  # where a value is logged by mistake


class Destination(Struct, frozen=True, forbid_unknown_fields=True):
    path: Path
    type: Annotated[Literal["r2"], _said("Always `r2`, whatever the bucket is.")] = "r2"
    format: Annotated[Literal["json"], _said("NDJSON.")] = "json"
    batch: BatchHints = BatchHints()
    compression: CompressionSettings = CompressionSettings()
    #: Not ours to know where it is left out: what was there stays. With null the bucket is a folder of this
    #: machine.
    credentials: Annotated[
        Credentials | UnsetType | None,
        _said("Left out: what was there stays, at first nothing. Null: the bucket is a folder of the server."),
    ] = UNSET
    #: Which field of a record tells the time of its partition; by default it is the time of its arrival.
    partition_time: Annotated[
        PartitionTime | None,
        _said("Which field of a record tells the time of its partition. Null: it is the time of its arrival."),
    ] = None


class Metadata(Struct, frozen=True, forbid_unknown_fields=True):
    shards: Annotated[
        Annotated[int, Meta(ge=1, le=limits.SHARDS_MAX)] | None,
        _said("How many shards take records. Null: by load, at least 2 and one per executor."),
    ] = None


_BOTH_SOURCES = msgspec.to_builtins([HttpSource(), BindingSource()])
_Answered = Annotated[Any, _said("Of an answer; ignored.", readOnly=True)]


class PipelineBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST and PUT. A PUT may carry what a GET answered, so those fields are let pass."""

    name: Annotated[
        str,
        _said(
            "a-z, A-Z, 0-9 and '-'. It cannot change.",
            pattern=f"^{NAME.pattern}$",
            examples=["my-clickstream"],
        ),
    ]
    destination: Destination
    metadata: Metadata = Metadata()
    source: Annotated[
        list[Source],
        _said("`http`, `binding` or both, each once.", minItems=1, maxItems=2, default=_BOTH_SOURCES),
    ] = msgspec.field(default_factory=lambda: [HttpSource(), BindingSource()])
    transforms: Annotated[
        list[TransformRef],
        _said("What the records go through, in this order.", maxItems=limits.TRANSFORMS_MAX),
    ] = []
    id: _Answered = None
    endpoint: _Answered = None
    version: _Answered = None
    status: _Answered = None
    failure_reason: _Answered = None
    paused_since: _Answered = None
    backlog: _Answered = None
    shards: _Answered = None
