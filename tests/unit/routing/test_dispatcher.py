"""Every attempt is prepared from the original, by the provider it was given."""

import pytest

from proxy.core.errors import ConnectFailed
from proxy.providers.base import OutboundRequest, PreparedCall, Target
from proxy.providers.openai import OpenAIProvider
from proxy.routing.dispatcher import Dispatcher
from proxy.upstream.timing import Timing
from proxy.upstream.transport import UpstreamResponse

REQUEST = OutboundRequest("POST", b"/v1/chat", [("Content-Type", "application/json")], b"{}")
TARGET = Target.from_url("https://api.test/prefix")


class RecordingTransport:
    def __init__(self, response: object) -> None:
        self.calls: list[tuple[PreparedCall, Timing]] = []
        self._response = response

    def handle(self, call: PreparedCall, timing: Timing) -> UpstreamResponse:
        self.calls.append((call, timing))
        if isinstance(self._response, Exception):
            raise self._response
        return self._response  # type: ignore[return-value]


def test_one_attempt() -> None:
    response, timing = object(), Timing()
    transport = RecordingTransport(response)
    dispatcher = Dispatcher(OpenAIProvider(), TARGET, transport)
    assert dispatcher.send(REQUEST, "sk-up", timing) is response
    ((call, seen),) = transport.calls
    assert seen is timing
    assert call.url == "https://api.test/prefix/v1/chat"
    assert ("Authorization", "Bearer sk-up") in call.request.headers
    assert REQUEST.headers == [("Content-Type", "application/json")]


def test_a_failure_passes() -> None:
    dispatcher = Dispatcher(OpenAIProvider(), TARGET, RecordingTransport(ConnectFailed("x")))
    with pytest.raises(ConnectFailed):
        dispatcher.send(REQUEST, "sk-up", Timing())
