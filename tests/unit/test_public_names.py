"""What applications import: it is there, says what it is, and is in the reference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import penstock

_DOCS = Path(__file__).parents[2] / "docs/reference"
REFERENCE = (_DOCS / "objects.md").read_text() + (_DOCS / "client.md").read_text()


@pytest.mark.parametrize("name", penstock.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(penstock, name)
    assert value.__name__ == name
    assert value.__doc__ and not value.__doc__.startswith(f"{name}("), "it has no docstring of its own"
    assert re.search(rf"`{name}\b", REFERENCE)


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(penstock, "Nothing")  # noqa: B009
