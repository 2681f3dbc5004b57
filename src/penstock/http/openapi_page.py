from typing import Any


def page(document: dict[str, Any], origin: str) -> str:
    return ""
