"""An HTTP endpoint that takes JSON arrays of events, as a log collector does."""

import gzip
import json
from collections.abc import Callable, Iterable
from typing import Any

from gevent.pywsgi import WSGIServer

#: Status line for a batch.
Judge = Callable[[list[Any]], str]


class Receiver:
    """Keeps the events of every batch that ``judge`` answers with a 2xx."""

    def __init__(self) -> None:
        self.judge: Judge = lambda _batch: "200 OK"
        self.headers: list[tuple[str, str]] = []
        self.events: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self._server = WSGIServer(("127.0.0.1", 0), self._handle, log=None)
        self._server.start()
        self.port: int = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/in?key=query-canary"

    def close(self) -> None:
        self._server.stop(timeout=0)

    def _handle(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        if len(body) < int(environ.get("CONTENT_LENGTH") or 0):
            start_response("400 Bad Request", [])
            return [b""]
        assert environ["HTTP_CONTENT_ENCODING"] == "gzip"
        batch = json.loads(gzip.decompress(body))
        self.requests.append(environ)
        status = self.judge(batch)
        if status.startswith("2"):
            self.events += batch
        start_response(status, self.headers)
        return [] if status.startswith("204") else [b"answer"]
