"""A file's content in small pieces, whatever it inflates to, and what is no such content."""

from __future__ import annotations

import pytest

from penstock.base.errors import Corrupt
from penstock.base.limits import INFLATED_SLICE_BYTES
from penstock.pipelines.compression import compressed
from penstock.pipelines.layout import Compression
from penstock.pipelines.stored_file import Inflater

COMPRESSIONS: list[Compression] = ["none", "gzip", "deflate", "zstd"]
CONTENT = b'{"n":1}\n' * 500_000


def inflated(stored: bytes, compression: Compression, piece_bytes: int) -> bytes:
    inflater = Inflater(compression)
    content = b""
    for start in range(0, len(stored), piece_bytes):
        inflater.feed(stored[start : start + piece_bytes])
        while piece := inflater.next():
            assert len(piece) <= INFLATED_SLICE_BYTES
            content += piece
    inflater.end()
    return content


@pytest.mark.parametrize("piece_bytes", [1_000, 1 << 20])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_content_comes_in_small_pieces(compression: Compression, piece_bytes: int) -> None:
    stored = b"".join(compressed([CONTENT], compression))
    assert inflated(stored, compression, piece_bytes) == CONTENT


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_what_is_cut_goes_on_or_is_something_else_is_damaged(compression: Compression) -> None:
    stored = b"".join(compressed([CONTENT], compression))
    for wrong in (stored[:-1], stored + b"x", b"nothing like it at all"):
        with pytest.raises(Corrupt):
            inflated(wrong, compression, 1_000)
