"""proxy/tools/loadtest/connection.py: the events of a stream, and the silence between them."""

from proxy.tools.loadtest.connection import EventTimes


def test_events_and_when_they_came() -> None:
    events = EventTimes()
    events.end(0.5)
    assert (events.count, events.first_at, events.stall) == (0, None, 0.0)
    events.feed(b": ping\n\ndata: o", 1.0)
    assert events.first_at is None
    events.feed(b"ne\r\n\r", 2.0)
    events.feed(b"\nevent: a\ndata: two\n\n", 3.0)
    assert (events.count, events.first_at) == (2, 3.0)
    events.feed(b"data: three\r\rdata: four\n\n", 7.5)
    events.feed(b": ping\n\n", 20.0)
    assert (events.count, events.stall) == (4, 4.5)
    events.end(13.0)
    assert events.stall == 5.5
