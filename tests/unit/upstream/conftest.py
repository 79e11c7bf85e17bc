"""No test of the folder may leave a socket behind."""

import pytest


@pytest.fixture(autouse=True)
def _no_socket_left(no_socket_left: None) -> None:
    """For every test of the folder."""
