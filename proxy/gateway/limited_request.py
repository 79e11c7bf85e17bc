"""A request whose LLM tokens count against a limit: `max_tokens_total`, `rate_limit_tpm`.

Its body is read strictly, its usage is asked for, and where the upstream reports none the response
is charged by an estimate. Requests without such a limit make none of this.
"""

from collections.abc import Mapping
from typing import Any, Final

from proxy.core.usage_event import UsageEvent
from proxy.gateway.generating_endpoints import CHATS
from proxy.gateway.outbound import with_body
from proxy.providers.base import OutboundRequest
from proxy.usage.estimate import ResponseText, prompt_bytes, tokens_of
from proxy.usage.request_usage import demand_usage

#: The most output, in tokens, that a choice holds in advance; and what one holds whose request
#: sets no bound.
MAX_HELD_OUTPUT: Final = 4096
_MAX_CHOICES: Final = 128
_OUTPUT_BOUNDS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
#: Parameters that must be known beyond doubt.
READS: Final = frozenset({"stream", "stream_options", *_OUTPUT_BOUNDS})


class LimitedRequest:
    """One request to an endpoint of :mod:`proxy.gateway.generating_endpoints`."""

    __slots__ = ("_text", "asking", "held", "prompt_tokens")

    def __init__(
        self, endpoint: str, outbound: OutboundRequest, parameters: Mapping[str, Any]
    ) -> None:
        """`parameters`: those of the body, :data:`READS` beyond doubt. Raises ClientError 400."""
        body = outbound.body if isinstance(outbound.body, bytes) else b""
        asked = demand_usage(body, parameters) if endpoint in CHATS else None
        #: What goes out in place of the request, where it had to be made to ask for its usage.
        self.asking = None if asked is None else with_body(outbound, asked)
        #: Tokens, estimated.
        self.prompt_tokens = tokens_of(prompt_bytes(parameters, len(body)))
        #: LLM tokens that it holds until it is known what it cost.
        self.held = self.prompt_tokens
        if endpoint != "embeddings":
            self.held += _output_bound(parameters)
        self._text: ResponseText | None = None

    def follow(self, content_type: str, content_encoding: str) -> ResponseText:
        """The response has begun. Returns what is to see each chunk of it."""
        self._text = ResponseText(content_type, content_encoding)
        return self._text

    def charge(self, event: UsageEvent, seen: int) -> int:
        """The LLM tokens to be charged for a response that did not report all of its usage.

        `seen` are those it did report. They stand as they are, but a client that leaves before the
        last count must not go uncounted, so that the estimate is charged where it is more. Where
        nothing was reported, it is noted in `event`. Nothing is estimated unless the status is 2xx.
        """
        status = event.status_code
        if self._text is None or status is None or not 200 <= status < 300:
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
    """The most output tokens of a request, as far as they are held in advance."""
    bounds = [_count(parameters.get(name)) for name in _OUTPUT_BOUNDS]
    bound = max((each for each in bounds if each is not None), default=MAX_HELD_OUTPUT)
    choices = max(1, _count(parameters.get("n")) or 0, _count(parameters.get("best_of")) or 0)
    return min(bound, MAX_HELD_OUTPUT) * min(choices, _MAX_CHOICES)


def _count(value: object) -> int | None:
    """Of an odd type: not known."""
    return value if type(value) is int and value >= 0 else None
