"""The access log (``ACCESS_LOG=on``): a line in the application log for each finished request.

Nothing here waits, as long as the log's handler does not (see :mod:`proxy.logs.async_handler`).

Note: a client chooses the path, and the path goes into a line of text.
"""

import logging
from collections.abc import Iterable
from typing import Any

from proxy.core.usage_event import UsageEvent

_log = logging.getLogger(__name__)


class AccessLog:
    """One per worker."""

    def __init__(self, log: logging.Logger = _log) -> None:
        self._log = log

    def events(self, events: Iterable[UsageEvent]) -> None:
        """Log requests on ``/v1``. Never waits and never raises.

        A superseded attempt is part of a request that has its own line.
        """
        for event in events:
            if event.outcome == "superseded":
                continue
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

    def log_response(
        self, request_id: str, method: str, path: str, status: int, ms: float, client_ip: str
    ) -> None:
        """Log a response of the proxy's own pages."""
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

    def _add(self, fields: dict[str, Any]) -> None:
        text = "{method} {path} {status} {duration_ms} ms".format(
            **{**fields, "path": _printable(fields["path"])}
        )
        # `handle` checks no level, so LOG_LEVEL does not silence the access log.
        self._log.handle(
            self._log.makeRecord(
                self._log.name, logging.INFO, __file__, 0, text, (), None, extra=fields
            )
        )


def _printable(path: str) -> str:
    """`path` without characters that a terminal would obey."""
    return path if path.isprintable() else ascii(path)
