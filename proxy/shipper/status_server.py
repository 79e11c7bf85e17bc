"""``/metrics`` and ``/ready`` of a process that is not a server: a small HTTP server on a thread.

It has no TLS and no authentication, so it belongs on an address that only the scraper reaches. It
shows nothing but metrics.
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

_TIMEOUT_SECONDS: Final = 10


class StatusServerError(OSError):
    """The address cannot be listened on; the text says why."""


class StatusServer:
    """Listens when made. ``port`` 0 takes a free one."""

    def __init__(
        self, host: str, port: int, metrics: Callable[[], str], trouble: Callable[[], str | None]
    ) -> None:
        """`metrics` returns the exposition, `trouble` a reason, or None while the process is ready.

        Raises StatusServerError.
        """

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_SECONDS

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._respond(200, "text/plain; version=0.0.4; charset=utf-8", metrics())
                elif path == "/ready":
                    reason = trouble()
                    status = 200 if reason is None else 503
                    self._respond(status, "text/plain; charset=utf-8", f"{reason or 'ready'}\n")
                else:
                    self._respond(404, "text/plain; charset=utf-8", "not found\n")

            def _respond(self, status: int, content_type: str, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Scrapes are not logged."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise StatusServerError(error.strerror or str(error)) from error
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
