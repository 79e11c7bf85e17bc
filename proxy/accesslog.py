"""The access log (``ACCESS_LOG=on``): a line in the application log for each finished request.

The thing to get wrong: whoever reads the log may stall. Lines are written on a thread of their own
and what it does not get through is dropped and counted, so that neither a request nor the way of
the usage events waits.
"""

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

_log = logging.getLogger(__name__)

_MOST_WAITING: Final = 10_000
_BATCH: Final = 500


class Finished(Protocol):
    """A usage event, as seen from here."""

    request_id: str
    method: str
    endpoint: str
    status_code: int | None
    outcome: str
    error_code: str | None
    duration_ms: float | None
    bytes_in: int | None
    bytes_out: int | None
    client_ip: str
    project_id: str | None
    token_id: str | None


class AccessLog:
    """One per worker."""

    def __init__(self, log: logging.Logger = _log) -> None:
        self._log = log
        self._waiting: deque[logging.LogRecord] = deque()
        self._wake = Event()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._thread: Any = None
        # Lines that found too many waiting, since the last that was written.
        self._dropped = 0

    def start(self) -> None:
        self._thread = ThreadPool(1)
        self._greenlet = gevent.spawn(self._run)

    def events(self, events: Iterable[Finished]) -> None:
        """Requests on ``/v1``. Neither waits nor raises."""
        for event in events:
            self._add(
                {
                    "request_id": event.request_id,
                    "method": event.method,
                    "path": event.endpoint,
                    "status": event.status_code,
                    "outcome": event.outcome,
                    "error_code": event.error_code,
                    "duration_ms": round(event.duration_ms or 0.0, 2),
                    "bytes_in": event.bytes_in,
                    "bytes_out": event.bytes_out,
                    "client_ip": event.client_ip,
                    "project_id": event.project_id,
                    "token_id": event.token_id,
                }
            )

    def page(
        self, request_id: str, method: str, path: str, status: int, ms: float, client_ip: str
    ) -> None:
        """An answer of the proxy's own pages."""
        self._add(
            {
                "request_id": request_id,
                "method": method,
                "path": path,
                "status": status,
                "duration_ms": round(ms, 2),
                "client_ip": client_ip,
            }
        )

    def close(self, deadline: float) -> None:
        """Write what waits, for ``deadline`` seconds at the most. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is None:
            return
        greenlet.kill(block=False)
        with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
            while self._waiting:
                self._write()
        # In a greenlet of its own: it waits for the thread, which may hang.
        gevent.spawn(self._thread.kill)

    def _add(self, fields: dict[str, Any]) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped += 1
            return
        text = "{method} {path} {status} {duration_ms} ms".format(
            **{**fields, "path": _printable(fields["path"])}
        )
        self._waiting.append(self._record(text, fields))
        self._wake.set()

    def _record(self, text: str, fields: dict[str, Any]) -> logging.LogRecord:
        return self._log.makeRecord(
            self._log.name, logging.INFO, __file__, 0, text, (), None, extra=fields
        )

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                self._write()

    def _write(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        if self._dropped:
            batch.append(self._record(f"{self._dropped} lines of the access log were dropped", {}))
            self._dropped = 0
        self._thread.apply(self._handle, (batch,))

    def _handle(self, batch: list[logging.LogRecord]) -> None:
        """On the thread. ``handle`` asks for no level, so that LOG_LEVEL does not silence it."""
        for record in batch:
            self._log.handle(record)


def _printable(path: str) -> str:
    """Nothing that a terminal would obey."""
    return path if path.isprintable() else ascii(path)
