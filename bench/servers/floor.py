"""The floor: the least that a Python proxy on gunicorn's gevent worker can do.

Bare WSGI, a pooled client with a parser in C, the Authorization header swapped, the body passed on
as it comes. No check, no metering, no time limit of its own, no care for hostile peers: nobody
should run it. It is what the platform costs.
"""

import os
from collections.abc import Iterator
from typing import Any

from geventhttpclient import HTTPClient

_client = HTTPClient.from_url(
    os.environ["UPSTREAM"], concurrency=4096, connection_timeout=5, network_timeout=600
)
_NOT_SENT = frozenset({"HTTP_HOST", "HTTP_AUTHORIZATION", "HTTP_CONNECTION"})
_NOT_RETURNED = frozenset({"connection", "server", "date", "transfer-encoding", "keep-alive"})


class Body:
    """What has arrived, as it arrives: the client's own ``read(n)`` waits for n bytes."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        response = self._response
        buffer: bytearray = response._body_buffer  # noqa: SLF001
        while not buffer:
            if response.message_complete:
                raise StopIteration
            response.feed(response._sock.recv(65536))  # noqa: SLF001
        data = bytes(buffer)
        del buffer[:]
        return data

    def close(self) -> None:
        # Not at its end: the connection must not go back into the pool.
        if not self._response.message_complete and self._response._sock:  # noqa: SLF001
            self._response._sock.close()  # noqa: SLF001
        self._response.release()


def app(environ: dict[str, Any], start_response: Any) -> Body:
    length = environ.get("CONTENT_LENGTH")
    body = environ["wsgi.input"].read(int(length)) if length else b""
    headers = {
        name[5:].replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") and name not in _NOT_SENT
    }
    if content_type := environ.get("CONTENT_TYPE"):
        headers["Content-Type"] = content_type
    headers["Authorization"] = "Bearer sk-upstream"
    response = _client.request(environ["REQUEST_METHOD"], environ["RAW_URI"], body, headers)
    start_response(
        f"{response.status_code} OK",
        [(name, value) for name, value in response.items() if name.lower() not in _NOT_RETURNED],
    )
    return Body(response)
