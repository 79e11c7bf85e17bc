"""Events to an HTTP endpoint: POST, a JSON array, gzip.

Redirects are not followed, because that would send the bearer token to a host that is not
configured. A batch that the receiver calls bad (400, 413, 422) is not sent forever: it is halved
until the bad event is found.
"""

import gzip
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import requests

from proxy import __version__
from proxy.events.dead_letters import PoisonIsolator, Refused
from proxy.events.sinks.base import DeadLetters, SinkOptions

_CONNECT_TIMEOUT: Final = 5.0
_READ_TIMEOUT: Final = 30.0
_BAD: Final = frozenset({400, 413, 422})


class NotAccepted(Exception):
    """The endpoint did not accept the batch, which is sent again."""


class HttpSink:
    """Posts batches to an endpoint. Any 2xx means that the batch was accepted."""

    @classmethod
    def from_options(cls, options: SinkOptions, dead: DeadLetters) -> "HttpSink":
        return cls(options.logging_url, options.logging_token, dead)

    def __init__(self, url: str, token: str, dead: DeadLetters) -> None:
        """An empty `token` sends no ``Authorization``."""
        self._url = url
        # For messages: the rest of the URL may contain a secret.
        self._where = urlsplit(url).netloc.rpartition("@")[2]
        self._dead = dead
        self._isolator = PoisonIsolator(self._send, dead)
        self._session = requests.Session()
        # Otherwise ~/.netrc would replace the bearer token.
        self._session.trust_env = False
        self._session.headers.update(
            {
                "Content-Type": "application/json",
                "Content-Encoding": "gzip",
                # Batches are rare, so a kept connection would mostly turn out to be closed.
                "Connection": "close",
                "User-Agent": f"openai-proxy/{__version__}",
            }
        )
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def write(self, batch: Sequence[bytes]) -> None:
        """Raises :class:`NotAccepted`."""
        self._isolator.write(batch)

    def _send(self, batch: Sequence[bytes]) -> None:
        array = b"[" + b",".join(line.rstrip(b"\n") for line in batch) + b"]"
        try:
            # Streamed and closed: the response's body is not needed, and may have no end.
            with self._session.post(
                self._url,
                data=gzip.compress(array, 5),
                timeout=(_CONNECT_TIMEOUT, _READ_TIMEOUT),
                allow_redirects=False,
                stream=True,
            ) as response:
                status = response.status_code
        except (requests.RequestException, OSError, ValueError) as error:
            raise NotAccepted(f"{self._where}: {_reason(error)}") from None
        if status in _BAD:
            raise Refused(f"HTTP {status}")
        if not 200 <= status < 300:
            raise NotAccepted(f"{self._where}: HTTP {status}")

    def close(self) -> None:
        self._session.close()
        self._dead.close()


def _reason(error: Exception) -> str:
    """The system's message or the error's class. The error's text has the URL, secrets included."""
    inner: BaseException | None = error
    # Not beyond this call, which may be a second attempt made while the first error is handled.
    while inner is not None and not isinstance(inner, NotAccepted | Refused):
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return type(error).__name__
