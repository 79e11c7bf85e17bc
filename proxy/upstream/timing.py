"""The moments of one request, and the headers that report them.

Durations come from the monotonic clock, points in time from the wall clock. The two are never
subtracted from each other.
"""

import time

Headers = list[tuple[str, str]]


class Timing:
    """The marks of one request. Each is set once, in this order; a mark not reached stays 0."""

    # Defaults instead of assignments in `__init__`, since one is made for every request.
    # Monotonic seconds: token checked, connection requested, connected, response head read, first
    # byte passed to the server, upstream's last byte read.
    authenticated = 0.0
    upstream_asked = 0.0
    connected = 0.0
    head_received = 0.0
    first_byte = 0.0
    upstream_done = 0.0
    # Unix nanoseconds, for clients that subtract their own clock.
    upstream_start_ns = 0
    upstream_stop_ns = 0

    def __init__(self) -> None:
        self.started_unix = time.time()
        # Monotonic seconds: accepted.
        self.started = time.perf_counter()

    def headers(self) -> Headers:
        """Return ``Server-Timing`` (W3C, ms), and start and stop of the upstream call (unix ns)."""
        auth = (self.authenticated - self.started) * 1e3 if self.authenticated else 0.0
        if not self.upstream_stop_ns:
            return [("Server-Timing", f"auth;dur={auth:.2f}")]
        queue = (self.connected - self.upstream_asked) * 1e3
        upstream = (self.head_received - self.connected) * 1e3
        return [
            (
                "Server-Timing",
                f"auth;dur={auth:.2f}, queue;dur={queue:.2f}, upstream;dur={upstream:.2f}",
            ),
            ("X-Upstream-Request-Start", str(self.upstream_start_ns)),
            ("X-Upstream-Request-Stop", str(self.upstream_stop_ns)),
        ]

    def duration_ms(self) -> float:
        """Milliseconds from acceptance until now."""
        return (time.perf_counter() - self.started) * 1e3

    def upstream_ms(self) -> float | None:
        """Milliseconds from the connection to the upstream's last byte, or None without a call."""
        if not self.connected:
            return None
        return ((self.upstream_done or time.perf_counter()) - self.connected) * 1e3

    def queue_ms(self) -> float | None:
        """Milliseconds of waiting for a connection to the upstream, or None without a call."""
        return (self.connected - self.upstream_asked) * 1e3 if self.connected else None

    def ttfb_ms(self) -> float | None:
        """Milliseconds from acceptance to the first byte of the response, or None without one."""
        return (self.first_byte - self.started) * 1e3 if self.first_byte else None

    def mark_authenticated(self) -> None:
        self.authenticated = time.perf_counter()

    def mark_upstream_started(self) -> None:
        self.upstream_asked = self.connected = time.perf_counter()
        self.upstream_start_ns = time.time_ns()

    def mark_head(self) -> None:
        self.head_received = time.perf_counter()
        self.upstream_stop_ns = time.time_ns()

    def mark_first_byte(self) -> None:
        self.first_byte = time.perf_counter()

    def mark_upstream_done(self) -> None:
        self.upstream_done = time.perf_counter()
