"""What buckets and keys may be called."""

import pytest

from penstock.base.errors import Invalid
from penstock.storage.bucket_names import check_key


def test_a_key_may_be_as_long_as_the_reference_says() -> None:
    longest = "/".join(["x" * 249] * 12)
    assert len(longest) == 2_999
    check_key(longest + "x")
    with pytest.raises(Invalid, match="the limit is 3000 bytes"):
        check_key(longest + "xx")
