import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known when the folder is named: `pytest tests/chaos --chaos-seed 7 --chaos-kills 300`."""
    parser.addoption("--chaos-seed", type=int, help="what clients and nemesis choose; random otherwise")
    parser.addoption("--chaos-kills", type=int, help="default 50, about two seconds each")
