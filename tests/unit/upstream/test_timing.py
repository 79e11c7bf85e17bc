"""Marks and what is reported of them; nothing here depends on how long anything takes."""

import re
import time

import pytest

from proxy.upstream.timing import Timing


def test_before_an_upstream_was_asked() -> None:
    timing = Timing()
    assert timing.headers() == [("Server-Timing", "auth;dur=0.00")]
    assert timing.upstream_ms() is None
    assert timing.ttfb_ms() is None
    assert timing.duration_ms() >= 0
    assert abs(timing.started_unix - time.time()) < 60


def test_a_whole_request() -> None:
    timing = Timing()
    timing.started = 10.0
    timing.authenticated = 10.001
    timing.upstream_asked = 10.002
    timing.connected = 10.0045
    timing.head_received = 10.1045
    timing.first_byte = 10.2
    timing.upstream_done = 10.5045
    timing.upstream_start_ns, timing.upstream_stop_ns = 1_000, 2_000
    assert timing.headers() == [
        ("Server-Timing", "auth;dur=1.00, queue;dur=2.50, upstream;dur=100.00"),
        ("X-Upstream-Request-Start", "1000"),
        ("X-Upstream-Request-Stop", "2000"),
    ]
    assert round(timing.upstream_ms() or 0, 3) == 500.0
    assert round(timing.ttfb_ms() or 0, 3) == 200.0


def test_marks() -> None:
    timing = Timing()
    timing.mark_authenticated()
    timing.connected = timing.authenticated
    running = timing.upstream_ms()
    timing.mark_first_byte()
    timing.mark_upstream_done()
    done = timing.upstream_ms()
    assert running is not None
    assert done is not None
    assert timing.started <= timing.authenticated <= timing.first_byte <= timing.upstream_done
    assert timing.upstream_ms() == done
    assert re.fullmatch(r"auth;dur=\d+\.\d\d", timing.headers()[0][1])


def test_the_wait_for_a_connection() -> None:
    timing = Timing()
    assert timing.queue_ms() is None
    timing.mark_upstream_started()
    assert timing.queue_ms() == 0.0
    timing.connected = timing.upstream_asked + 0.25
    assert timing.queue_ms() == pytest.approx(250.0)
