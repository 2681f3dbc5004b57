"""Files' compressions: what went in comes out, and the same bytes each time."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.base.zstandard import zstd
from penstock.pipelines.compression import compressed, compressor, decompress
from penstock.pipelines.layout import Compression

COMPRESSIONS: list[Compression] = ["none", "gzip", "deflate", "zstd"]
chunks = st.lists(st.binary(max_size=2_000), max_size=8)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(pieces=chunks)
def test_what_was_compressed_comes_out_again(compression: Compression, pieces: list[bytes]) -> None:
    assert decompress(b"".join(compressed(pieces, compression)), compression) == b"".join(pieces)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(pieces=chunks)
def test_the_same_pieces_give_the_same_bytes(compression: Compression, pieces: list[bytes]) -> None:
    once = b"".join(compressed(pieces, compression))
    assert b"".join(compressed(pieces, compression)) == once
    made = compressor(compression)
    assert b"".join([*map(made.compress, pieces), made.flush()]) == once


@pytest.mark.parametrize(
    ("compression", "read"),
    [
        ("gzip", gzip.decompress),
        ("deflate", zlib.decompress),
        ("zstd", zstd.decompress),
    ],
)
def test_other_programs_can_read_them(compression: Compression, read: Callable[[bytes], bytes]) -> None:
    plain = b'{"n":1}\n' * 10_000
    packed = b"".join(compressed([plain[:7], plain[7:]], compression))
    assert read(packed) == plain
    assert len(packed) < len(plain) / 10


@pytest.mark.parametrize("compression", ["gzip", "deflate", "zstd"])
def test_what_is_no_file_of_ours_is_an_error(compression: Compression) -> None:
    with pytest.raises(Exception, match=r".+"):
        decompress(b"no such thing", compression)
