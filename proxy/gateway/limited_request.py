"""A request whose LLM tokens count against a limit: `max_tokens_total`, `rate_limit_tpm`.

Its body is read strictly, and its usage is requested. Where the upstream reports none, the response
is charged by an estimate. Requests without such a limit do not use this module.
"""

from collections.abc import Mapping
from typing import Any, Final

from proxy.core.usage_event import UsageEvent
from proxy.gateway.generating_endpoints import CHATS
from proxy.gateway.outbound import with_body
from proxy.providers.base import OutboundRequest
from proxy.usage.estimate import ResponseText, prompt_bytes, tokens_of
from proxy.usage.request_usage import demand_usage

#: The most output that a choice holds in advance, in tokens. It is also what a choice holds whose
#: request sets no maximum.
MAX_HELD_OUTPUT_TOKENS: Final = 4096
_MAX_CHOICES: Final = 128
_OUTPUT_BOUNDS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
#: The parameters that must be unambiguous.
READS: Final = frozenset({"stream", "stream_options", *_OUTPUT_BOUNDS})


class LimitedRequest:
    """One request to an endpoint of :mod:`proxy.gateway.generating_endpoints`."""

    __slots__ = ("_text", "held", "prompt_tokens", "usage_request")

    def __init__(
        self, endpoint: str, outbound: OutboundRequest, parameters: Mapping[str, Any]
    ) -> None:
        """`parameters` are those of the body, with :data:`READS`. Raises ClientError 400."""
        body = outbound.body if isinstance(outbound.body, bytes) else b""
        asked = demand_usage(body, parameters) if endpoint in CHATS else None
        #: The request that goes out instead, if the original does not ask for its usage.
        self.usage_request = None if asked is None else with_body(outbound, asked)
        #: Estimated prompt tokens.
        self.prompt_tokens = tokens_of(prompt_bytes(parameters, len(body)))
        #: LLM tokens that the request holds until its cost is known.
        self.held = self.prompt_tokens
        if endpoint != "embeddings":
            self.held += _output_bound(parameters)
        self._text: ResponseText | None = None

    def observe(self, content_type: str, content_encoding: str) -> ResponseText:
        """Return the observer of the response, which has begun."""
        self._text = ResponseText(content_type, content_encoding)
        return self._text

    def charge(self, event: UsageEvent, seen: int, status: int) -> int:
        """Return the LLM tokens to charge for a response that did not report all of its usage.

        `seen` are the tokens that it did report. The estimate is charged where it is larger, so
        that a client cannot avoid the charge by leaving before the last count. Where nothing was
        reported, the estimate is set in `event`. Only responses with a `status` of 2xx are
        estimated: that of the upstream, which may have responded after the client has left.
        """
        if self._text is None or not 200 <= status < 300:
            return seen
        completion_tokens = tokens_of(self._text.size())
        if event.usage_source != "none":
            return max(seen, self.prompt_tokens + completion_tokens)
        event.usage_source, event.estimate_method = "estimated", "bytes"
        event.metadata = {
            **event.metadata,
            "estimated_prompt_tokens": self.prompt_tokens,
            "estimated_completion_tokens": completion_tokens,
        }
        return self.prompt_tokens + completion_tokens


def _output_bound(parameters: Mapping[str, Any]) -> int:
    """Return the output tokens that a request holds in advance."""
    bounds = [_count(parameters.get(name)) for name in _OUTPUT_BOUNDS]
    bound = max((each for each in bounds if each is not None), default=MAX_HELD_OUTPUT_TOKENS)
    choices = max(1, _count(parameters.get("n")) or 0, _count(parameters.get("best_of")) or 0)
    return min(bound, MAX_HELD_OUTPUT_TOKENS) * min(choices, _MAX_CHOICES)


def _count(value: object) -> int | None:
    """Return a count of tokens or choices, None for a value of another type."""
    return value if type(value) is int and value >= 0 else None
