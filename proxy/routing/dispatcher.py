"""From a request to an upstream's response: the target, and the call that is sent there."""

from proxy.providers.base import OutboundRequest, Provider, Target
from proxy.upstream.timing import Timing
from proxy.upstream.transport import Transport, UpstreamResponse
from proxy.upstream.websocket import UpgradeResponse


class Dispatcher:
    """One target, one attempt. Every attempt is prepared from the original request."""

    def __init__(self, provider: Provider, target: Target, transport: Transport) -> None:
        self._provider = provider
        self._target = target
        self._transport = transport

    def send(
        self, request: OutboundRequest, upstream_key: str | None, timing: Timing
    ) -> UpstreamResponse:
        """Send the request. Returns the response with its body unread.

        Raises :class:`proxy.core.errors.UpstreamError`, or the error of the client's own body.
        """
        call = self._provider.prepare(request, self._target, upstream_key)
        return self._transport.handle(call, timing)

    def upgrade(
        self, request: OutboundRequest, upstream_key: str | None, timing: Timing
    ) -> UpgradeResponse | UpstreamResponse:
        """As :meth:`send`, for a WebSocket's handshake: switched, or an ordinary response."""
        call = self._provider.prepare(request, self._target, upstream_key)
        return self._transport.upgrade(call, timing)
