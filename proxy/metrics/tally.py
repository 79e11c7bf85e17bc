"""Usage events, and answers of the proxy's own pages, become figures.

Runs behind the queue of events, never on the path of a request. The thing to get wrong: nothing of
an event becomes a label as it stands (see :mod:`proxy.metrics.labels`).
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from proxy.errors import CUT_CODES, STATUS_BY_CODE
from proxy.metrics import labels
from proxy.metrics.figures import Figures

_log = logging.getLogger(__name__)

#: Field of an event's metadata → the label `kind`.
_KINDS: Final[Mapping[str, str]] = {
    "prompt_tokens": "prompt",
    "completion_tokens": "completion",
    "cached_tokens": "cached",
    "reasoning_tokens": "reasoning",
}
#: Our own codes that say which limit was met.
_LIMITS: Final = frozenset({"rate_limit_exceeded", "quota_exceeded", "overloaded"})


class Finished(Protocol):
    """A usage event, as seen from here: milliseconds, None for what did not happen."""

    endpoint: str
    method: str
    status_code: int | None
    outcome: str
    error_code: str | None
    project_id: str | None
    token_id: str | None
    token: str | None
    duration_ms: float | None
    queue_ms: float | None
    upstream_ms: float | None
    ttfb_ms: float | None
    bytes_in: int | None
    bytes_out: int | None
    metadata: Mapping[str, object]

    @property
    def is_read(self) -> bool: ...


class Tally:
    """One per worker. ``provider`` is the name of the upstream's kind."""

    def __init__(self, figures: Figures, provider: str) -> None:
        self._figures = figures
        self._provider = provider
        self._consumers = labels.Consumers()
        self._failed = False
        # From the start, so that the first one shows as a rise from 0.
        for code in sorted(_LIMITS):
            figures.count("proxy_rate_limited_total", (code,), 0)
        for code in sorted(CUT_CODES):
            figures.count("proxy_requests_cut_total", (code,), 0)

    def observe(self, events: Iterable[Finished]) -> None:
        """Count ``events``. Never raises: whoever hands them on has more to do with them."""
        for event in events:
            try:
                self._observe(event)
            except Exception:  # noqa: BLE001
                if not self._failed:
                    _log.exception("an event cannot be counted")
                self._failed = True

    def page(self, route: str, method: str, status: int) -> None:
        """An answer of our own pages; ``route`` is `management`, `status` or `other`."""
        outcome = "completed" if status < 400 else "rejected" if status < 500 else "aborted"
        key = (route, labels.method(method), labels.status(status), outcome)
        self._figures.count("proxy_requests_total", key)

    def _observe(self, event: Finished) -> None:
        figures = self._figures
        route = labels.route(event.endpoint)
        figures.count(
            "proxy_requests_total",
            (
                route,
                labels.method(event.method),
                labels.status(event.status_code or 0),
                event.outcome,
            ),
        )
        by_route = (route,)
        duration = (event.duration_ms or 0.0) / 1e3
        figures.observe("proxy_request_duration_seconds", duration, by_route)
        if event.ttfb_ms is not None:
            figures.observe("proxy_time_to_first_byte_seconds", event.ttfb_ms / 1e3, by_route)
        if event.upstream_ms is not None:
            upstream = event.upstream_ms / 1e3
            figures.observe("proxy_upstream_duration_seconds", upstream, by_route)
            if event.outcome == "completed":
                own = duration - upstream - (event.queue_ms or 0.0) / 1e3
                figures.observe("proxy_overhead_seconds", max(0.0, own), by_route)
            figures.count("proxy_provider_requests_total", (self._provider, _result(event)))
        code = event.error_code
        if code is not None:
            known = code if code in STATUS_BY_CODE else labels.OTHER
            figures.count("proxy_errors_total", (known,))
            if code in _LIMITS:
                figures.count("proxy_rate_limited_total", (code,))
            if code in CUT_CODES and event.outcome == "aborted":
                figures.count("proxy_requests_cut_total", (code,))
        if event.bytes_in:
            figures.count("proxy_body_bytes_total", ("in",), event.bytes_in)
        if event.bytes_out:
            figures.count("proxy_body_bytes_total", ("out",), event.bytes_out)
        if event.method != "GET" or not event.is_read:
            self.tokens(event)

    def tokens(self, event: Finished) -> None:
        """Of a generation; or of a read, once the ledger has counted it."""
        told = event.metadata
        if "prompt_tokens" not in told and "completion_tokens" not in told:
            return
        # In pass-through mode there is no id, and the hash of the key says who it was.
        token = event.token_id or event.token
        who = self._consumers.labels(event.project_id or labels.OTHER, told.get("model"), token)
        for field, kind in _KINDS.items():
            tokens = told.get(field)
            if isinstance(tokens, int) and tokens:
                self._figures.count("proxy_tokens_total", (kind, *who), tokens)


def _result(event: Finished) -> str:
    """Our code where there was no whole answer; else the answer's class, and 429 by itself."""
    if event.error_code is not None:
        return event.error_code if event.error_code in STATUS_BY_CODE else labels.OTHER
    if event.outcome == "client_gone":
        return "client_gone"
    status = event.status_code or 0
    return "429" if status == 429 else f"{status // 100}xx"
