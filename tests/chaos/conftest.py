import pytest

from .scale import KILLS, OUTAGES, UPDATES


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known when the folder is named: `pytest tests/chaos --chaos-seed 7 --chaos-kills 300 --chaos-updates 50`."""
    parser.addoption("--chaos-seed", type=int, help="what clients and nemesis choose; random otherwise")
    parser.addoption("--chaos-kills", type=int, default=KILLS, help="default %(default)s, about two seconds each")
    parser.addoption("--chaos-updates", type=int, default=UPDATES, help="changes of settings, default %(default)s")
    parser.addoption("--chaos-outages", type=int, default=OUTAGES, help="of the S3 server, default %(default)s")
