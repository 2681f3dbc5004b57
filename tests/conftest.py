from penstock.storage.sqlite_memory import spare_lookaside


def pytest_configure() -> None:
    """Tests run as the server does, which does this at its start; once a test has a connection it is too late."""
    assert spare_lookaside()
