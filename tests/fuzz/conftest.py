from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known when the folder is named: `pytest tests/fuzz --fuzz-cases 100000`."""
    parser.addoption("--fuzz-cases", type=int, help="send so many requests; default 2,000")
    parser.addoption("--api-cases", type=int, help="send so many requests to all of the API; default 700")


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fuzz-cases", default=None) or 2_000)


@pytest.fixture
def api_cases(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--api-cases", default=None) or 700)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A line for each refusal would fill the memory."""
    before = structlog.get_config()
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


def _drop(_logger: object, _method: str, _event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent
