"""The route of one request, what was tried, and who served it, for its event and its headers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.core.usage_event import RoutingFacts
from proxy.routing.attempt_loop import Attempt, Routed, RoutedCall
from proxy.routing.router import Route

#: Why a request moved on from a target to which nothing was sent.
UNAVAILABLE: Final = "unavailable"


@dataclass(slots=True)
class RoutedRequest:
    """The route of one request, and what came of it."""

    route: Route
    call: RoutedCall
    #: Whether the proxy asked for the usage.
    usage_injected: bool
    #: The one that serves the client. None: none has, so far.
    routed: Routed | None = None
    #: The LLM tokens of attempts whose responses no client got.
    superseded_tokens: int = 0

    def broke_off(self, error_code: str | None) -> None:
        """The response has ended early; `error_code` says by what."""
        if self.routed is not None and (error_code or "").startswith("upstream_"):
            self.routed.broke_off()

    def facts(self) -> RoutingFacts:
        """Return what the event of the request says of its routing."""
        attempts = self.call.attempts
        own_key = all(target.provider is None for target in self.route.targets)
        served = attempts[-1] if attempts else None
        if self.routed is not None:
            target = self.routed.target
            provider, model = target.provider, target.model
        else:
            provider = served.provider if served else ""
            model = served.model if served else None
        if own_key:
            provider, model = "", None
        return RoutingFacts(
            provider or None,
            model,
            self.route.alias,
            tuple(attempt.as_json() for attempt in attempts),
            moves(attempts),
        )


def moves(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """Return why the request moved on, for each move to another target that was then tried.

    It is the reason of the attempt before. Where the first targets were not tried at all, since
    they are open or have no key that may be used now, it is :data:`UNAVAILABLE`.
    """
    found = []
    place, reason = 0, UNAVAILABLE
    for attempt in attempts:
        if attempt.target != place:
            found.append(reason)
        place, reason = attempt.target, attempt.reason or UNAVAILABLE
    return tuple(found)
