import gc
from collections.abc import Iterator
from zlib import crc32

import pytest
import structlog
from tests.sim.steps import Steps


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known when the folder is named: `pytest tests/sim --seed 42`, and `--seeds 5000` for a longer look."""
    parser.addoption("--seed", type=int, help="run the scenario for this seed alone")
    parser.addoption("--seeds", type=int, help="run the scenario for so many seeds; default 120")
    parser.addoption("--stride", type=int, default=5, help="put faults at every so many steps; 1 is every step")


@pytest.fixture
def steps(request: pytest.FixtureRequest) -> Steps:
    """Where a test begins depends on its name, so that tests alike look at different steps."""
    return Steps(request.config.getoption("--stride"), crc32(request.node.name.encode()))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What the simulated executors log is what the trace tells better."""
    before = structlog.get_config()
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


def _drop(_logger: object, _method: str, _event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent


@pytest.fixture(autouse=True, scope="session")
def frozen() -> Iterator[None]:
    """Keep the garbage collector from looking at pytest and all modules again after each simulation."""
    gc.freeze()
    yield
    # The interpreter frees only what is not frozen when it ends, and DuckDB's binding complains of the rest.
    gc.unfreeze()
