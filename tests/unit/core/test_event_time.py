"""When an event came in (``proxy/core/usage_event.py``)."""

import pytest

from proxy.core.usage_event import event_time
from tests.support.event_samples import event


def test_of_an_event() -> None:
    assert event_time(event(started=1_779_235_380.1239).line()) == 1_779_235_380.123


@pytest.mark.parametrize(
    "line", [b"", b"x", b"[]", b"{}", b'{"timestamp":1}', b'{"timestamp":"soon"}']
)
def test_of_anything_else(line: bytes) -> None:
    assert event_time(line) is None
