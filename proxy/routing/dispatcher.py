"""From a request to an upstream's answer: where to, as what, and (later) how often to try."""

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

    def handle(
        self, request: OutboundRequest, upstream_key: str | None, timing: Timing
    ) -> UpstreamResponse:
        """The answer's head, its body still to be read.

        Raises :class:`proxy.core.errors.UpstreamError`, or the error of the client's own body.
        """
        call = self._provider.prepare(request, self._target, upstream_key)
        return self._transport.handle(call, timing)

    def upgrade(
        self, request: OutboundRequest, upstream_key: str | None, timing: Timing
    ) -> UpgradeResponse | UpstreamResponse:
        """The same for a WebSocket's opening handshake: switched, or an ordinary answer."""
        call = self._provider.prepare(request, self._target, upstream_key)
        return self._transport.upgrade(call, timing)
