"""When an event came in (``proxy/events/timestamps.py``)."""

import pytest

from proxy.events.timestamps import came_in
from tests.events.samples import event


def test_of_an_event() -> None:
    assert came_in(event(started=1_779_235_380.1239).line()) == 1_779_235_380.123


@pytest.mark.parametrize(
    "line", [b"", b"x", b"[]", b"{}", b'{"timestamp":1}', b'{"timestamp":"soon"}']
)
def test_of_anything_else(line: bytes) -> None:
    assert came_in(line) is None
