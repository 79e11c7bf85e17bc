"""Labels of providers and their models, and the label of an attempt's status.

Names are those of the configuration. Clients choose models too (`provider/any-name`), so a model
that no mapping and no declared list has is `other`.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from proxy.core.usage_event import RoutingFacts

OTHER: Final = "other"
#: The provider of requests with a project's own key. Their models have no label.
OWN_KEY: Final = "default"

#: Pairs of provider and model with series of their own, per worker.
_MAX_PAIRS: Final = 500
#: Aliases with series of their own, per worker.
_MAX_ALIASES: Final = 500

SUCCESS: Final = "success"
ERROR: Final = "error"
RATE_LIMITED: Final = "rate_limited"
REFUSED: Final = "refused"

#: Reasons of attempts (:class:`proxy.routing.retry.Failure`) → status. All others are errors.
_STATUS_OF_REASON: Final[Mapping[str, str | None]] = {
    "rate": RATE_LIMITED,
    "stream_rate": RATE_LIMITED,
    **dict.fromkeys(
        (
            *("auth", "forbidden", "payment", "stream_auth", "stream_forbidden", "stream_payment"),
            *("model_not_found", "context", "content", "client"),
        ),
        REFUSED,
    ),
    "abandoned": None,
}


class TargetLabels:
    """The labels of one worker's targets. The first names up to a number are kept apart."""

    def __init__(self, configured: Callable[[], Mapping[str, Collection[str]]]) -> None:
        """`configured` returns the models of each provider that the configuration names."""
        self._configured = configured
        self._pairs: set[tuple[str, str]] = set()
        self._aliases: set[str] = set()

    def target(self, provider: str, model: str | None) -> tuple[str, str]:
        """Return (provider, model) as labels. The model is empty where none was chosen."""
        pair = provider, model or ""
        if pair in self._pairs:
            return pair
        if model and model not in self._configured().get(provider, ()):
            return provider, OTHER
        if len(self._pairs) >= _MAX_PAIRS:
            return provider, OTHER
        self._pairs.add(pair)
        return pair

    def alias(self, name: str) -> str:
        """Return the label of an alias. Only aliases of the configuration come here."""
        if name not in self._aliases:
            if len(self._aliases) >= _MAX_ALIASES:
                return OTHER
            self._aliases.add(name)
        return name


def attempts_of(
    routing: RoutingFacts, last: str | None
) -> list[tuple[str, str | None, str | None]]:
    """Return provider, model and status label of each attempt.

    `last` is the status of the one that served the client. A label of None means that the attempt
    came to no result, because the client left.
    """
    return [
        (
            attempt["provider"],
            attempt["model"],
            last if attempt["reason"] is None else _STATUS_OF_REASON.get(attempt["reason"], ERROR),
        )
        for attempt in routing.attempts
    ]


def status_of(status_code: int | None, error_code: str | None) -> str | None:
    """Return the status label of the attempt that served the client, from the request's event.

    1. the upstream broke off, or gave no response: `error`
    2. the client left before the head, or the proxy ended the request before it: None
    3. otherwise by the upstream's status: 429 is `rate_limited`, another 4xx `refused`
    """
    if error_code is not None and error_code.startswith("upstream_"):
        return ERROR
    status = status_code or 0
    if 100 <= status < 400:
        return SUCCESS
    if error_code is not None or status in (0, 499):
        return None
    if status == 429:
        return RATE_LIMITED
    return REFUSED if status < 500 else ERROR
