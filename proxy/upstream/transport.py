"""One round trip on the pooled Session; requests' errors become the proxy's.

``requests.Session`` is the seam: tests and other adapters can be mounted on it. Its ``request`` and
``send`` are never called, since they follow redirects, keep cookies, read ``.netrc`` and the
environment, and swallow the body of a redirect. The prepared request goes straight to the mounted
adapter.
"""

from typing import Any, Protocol

import gevent
import requests

from proxy.core.errors import ConnectFailed, ResponseBroken, UpstreamError, UpstreamTimeout
from proxy.providers.base import PreparedCall
from proxy.upstream.http1_codec import HeaderPairs
from proxy.upstream.timing import Timing
from proxy.upstream.websocket import UpgradeResponse

Headers = list[tuple[str, str]]


class UpstreamResponse:
    """A response whose head has been read; :meth:`read` returns the body as it arrives."""

    __slots__ = ("_raw", "_silence", "_timeout", "complete", "headers", "reason", "status")

    def __init__(self, response: requests.Response, read_timeout: float) -> None:
        """``read_timeout``: the seconds of silence after which :meth:`read_within` raises."""
        self._timeout = read_timeout
        self._silence = 0.0
        self.status: int = response.status_code
        self.reason: str = response.reason or ""
        self._raw: Any = response.raw
        # The Response's own mapping joins duplicates; the raw headers keep each line.
        self.headers: Headers = list(self._raw.headers.items())
        #: Whether the chunk read last is the last of the body. False if a mock does not say.
        self.complete = False

    @property
    def ready(self) -> bool:
        """Whether :meth:`read` would return without waiting. False if a mock does not say."""
        return bool(getattr(self._raw, "ready", False))

    def read(self) -> bytes:
        """Return what has arrived, undecoded; ``b""`` at the end. Raises :class:`UpstreamError`."""
        try:
            data: bytes = self._raw.read1(65536, decode_content=False)
        except requests.RequestException as error:
            raise _translated(error) from error
        self.complete = getattr(self._raw, "complete", False)
        return data

    def read_within(self, seconds: float) -> bytes | None:
        """As :meth:`read`. Returns None when nothing arrived in that time; call it again then."""
        with gevent.Timeout(seconds, False):  # type: ignore[arg-type]  # False: it ends silently
            data = self.read()
            self._silence = 0.0
            return data
        self._silence += seconds
        if self._silence >= self._timeout:
            raise UpstreamTimeout
        return None

    def close(self) -> None:
        """Release the connection, or drop it if the response is unfinished. Idempotent."""
        self._raw.close()


class Transport(Protocol):
    """Sends one prepared call to an upstream."""

    def handle(self, call: PreparedCall, timing: Timing) -> UpstreamResponse: ...

    def upgrade(self, call: PreparedCall, timing: Timing) -> UpgradeResponse | UpstreamResponse: ...


class SessionTransport:
    """Sends on the adapters that are mounted on ``session``."""

    def __init__(
        self, session: requests.Session, *, connect_timeout: float, read_timeout: float
    ) -> None:
        self._session = session
        self._timeout = (connect_timeout, read_timeout)

    def handle(self, call: PreparedCall, timing: Timing) -> UpstreamResponse:
        """Make one attempt. Raises :class:`UpstreamError`, or the client body's own error."""
        adapter = self._session.get_adapter(call.url)
        timing.mark_upstream_started()
        try:
            response = adapter.send(_prepared(call), stream=True, timeout=self._timeout)
        except requests.RequestException as error:
            raise _translated(error) from error
        timing.mark_head()
        raw: Any = response.raw
        started_ns = getattr(raw, "write_started_ns", 0)
        if started_ns:  # a mock has no such marks
            timing.connected = raw.write_started
            timing.upstream_start_ns = started_ns
        return UpstreamResponse(response, self._timeout[1])

    def upgrade(self, call: PreparedCall, timing: Timing) -> UpgradeResponse | UpstreamResponse:
        """Request a protocol switch on an adapter that can. Raises :class:`UpstreamError`."""
        adapter: Any = self._session.get_adapter(call.url)
        timing.mark_upstream_started()
        try:
            opened = adapter.upgrade(_prepared(call), self._timeout)
        except requests.RequestException as error:
            raise _translated(error) from error
        timing.mark_head()
        if isinstance(opened, UpgradeResponse):
            return opened
        return UpstreamResponse(opened, self._timeout[1])

    def close(self) -> None:
        self._session.close()


class _PreparedRequest(requests.PreparedRequest):
    """A request without the table of hooks that requests' constructor makes."""

    hooks: Any = {}  # noqa: RUF012
    _cookies = None
    _body_position = None

    def __init__(self) -> None:
        """Set no field: :func:`_prepared` sets them."""


def _prepared(call: PreparedCall) -> requests.PreparedRequest:
    """Prepare by hand, since requests would re-encode the target and change the headers."""
    prepared = _PreparedRequest()
    prepared.method = call.request.method
    prepared.url = call.url
    prepared.headers = HeaderPairs(call.request.headers)  # type: ignore[assignment]
    prepared.body = call.request.body  # type: ignore[assignment]
    return prepared


def _translated(error: requests.RequestException) -> UpstreamError:
    """Return the proxy's error for the class of requests' error, with its detail in the message."""
    if isinstance(error, requests.ReadTimeout):
        return UpstreamTimeout()
    detail = str(error)
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError):
        return ConnectFailed(f"The upstream could not be reached: {detail}.")
    # The adapter's BrokenResponse is a ConnectionError too, after a successful connect.
    if isinstance(error, requests.ConnectionError) and not getattr(error, "connected", False):
        return ConnectFailed(f"The upstream could not be reached: {detail}.")
    return ResponseBroken(f"The upstream gave no valid response: {detail}.")
