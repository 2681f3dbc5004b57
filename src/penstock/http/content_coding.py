"""Content-Encoding of a request: which codings are taken, and a body inflated in small steps.

How much a body may inflate to is bounded by whoever takes the steps; a limit on the ratio would add nothing to
that. One step costs a bounded amount of time and memory, whatever is in the body: it takes a slice of the encoded
bytes (tables without contents cost time and give no output) and gives a slice of the others (bombs give very much).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from isal import igzip_lib

from penstock.base.errors import Invalid
from penstock.base.limits import DEFLATED_SLICE_BYTES, INFLATED_SLICE_BYTES, ZSTD_WINDOW_BITS_MAX
from penstock.base.zstandard import zstd
from penstock.http.errors import UnsupportedEncoding
from penstock.pipelines.records import CODE_NOT_JSON


class _Decompressor(Protocol):
    """What the libraries' decompressors have in common, after the standard library's `bz2`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /, max_length: int) -> bytes: ...


def _gzip() -> _Decompressor:
    decompressor: _Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return decompressor


def _deflate() -> _Decompressor:
    """RFC 9110, 8.4.1.2: "deflate" means the zlib format."""
    decompressor: _Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_ZLIB)
    return decompressor


def _zstd() -> _Decompressor:
    # RFC 9659 has senders of HTTP contents keep to this window.
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_BITS_MAX})


#: (isal's annotations take the class for an instance.)
_ERRORS: tuple[Any, ...] = (igzip_lib.IsalError, zstd.ZstdError)

_CODINGS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,  # RFC 9110, 8.4.1.3
    "deflate": _deflate,
    "zstd": _zstd,
}
#: What is taken, as in `Accept-Encoding`.
TAKEN = "gzip, zstd, deflate"


def read_coding(header: str) -> str | None:
    """The coding that a Content-Encoding header names, None for none. Raises `UnsupportedEncoding`."""
    name = header.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _CODINGS:
        problem = "names several codings" if "," in name else "is not known"
        raise UnsupportedEncoding(
            f"Content-Encoding {header[:64]!r} {problem}: send the body as it is, or encoded once with one of "
            f"{TAKEN}.",
            headers=((b"accept-encoding", TAKEN.encode()),),
        )
    return name


def inflate(coding: str, body: bytes | bytearray) -> Iterator[bytes]:
    """The content of `body`, piece by piece, each at most `INFLATED_SLICE_BYTES` and some empty. One gzip member or
    zstd frame is taken. Raises `Invalid` for what is damaged, incomplete or followed by more."""
    if coding in ("gzip", "x-gzip") and body[3:4] > b"\x1f":
        raise _wrong(coding, "it sets reserved flags")  # RFC 1952, 2.3.1.2, which isal overlooks
    decompressor = _CODINGS[coding]()
    view = memoryview(body)
    position = 0
    while not decompressor.eof:
        piece = b""
        if decompressor.needs_input:
            if position >= len(view):
                raise _wrong(coding, "it ends too early")
            piece = bytes(view[position : position + DEFLATED_SLICE_BYTES])
            position += len(piece)
        try:
            inflated = decompressor.decompress(piece, INFLATED_SLICE_BYTES)
        except _ERRORS as error:
            raise _wrong(coding, str(error)) from error
        yield inflated
    if position < len(view) or decompressor.unused_data:
        raise _wrong(coding, "more follows after its end")


def _wrong(coding: str, problem: str) -> Invalid:
    return Invalid(
        f"The body is not what its Content-Encoding {coding!r} promises: {problem}. Nothing was stored.",
        code=CODE_NOT_JSON,
    )
