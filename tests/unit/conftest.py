"""Fixtures of several rooms."""

from collections.abc import Iterator

import pytest

from tests.support.open_handles import sockets
from tests.support.wait import wait_until


@pytest.fixture
def no_socket_left() -> Iterator[None]:
    """The test closes every socket that it opens."""
    before = sockets()
    yield
    wait_until(lambda: sockets() <= before)
