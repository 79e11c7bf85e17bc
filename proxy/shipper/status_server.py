"""``/metrics`` and ``/ready`` of a process that is not the proxy: a small HTTP server on a thread.

No TLS, no bearer: it belongs on an address that only the scraper reaches, and tells nothing but
figures.
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

_TIMEOUT: Final = 10


class StatusServer:
    """Listens when made (OSError when it cannot). ``port`` 0 takes a free one."""

    def __init__(
        self, host: str, port: int, metrics: Callable[[], str], trouble: Callable[[], str | None]
    ) -> None:
        """``metrics``: the exposition; ``trouble``: None while the process is ready."""

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics())
                elif path == "/ready":
                    reason = trouble()
                    status = 200 if reason is None else 503
                    self._answer(status, "text/plain; charset=utf-8", f"{reason or 'ready'}\n")
                else:
                    self._answer(404, "text/plain; charset=utf-8", "not found\n")

            def _answer(self, status: int, content_type: str, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Scrapes are no news."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
