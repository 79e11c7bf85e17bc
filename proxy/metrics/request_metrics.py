"""Counting usage events, and responses of the proxy's own pages.

This runs behind the event queue, never on the path of a request.

Note: no value of an event becomes a label as it is. Labels come from closed sets or are limited in
number.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

from proxy.core.errors import CUT_CODES, STATUS_BY_CODE
from proxy.core.usage_event import CacheFacts, UsageEvent
from proxy.metrics.samples import Samples
from proxy.metrics.target_labels import ERROR, OTHER, OWN_KEY, TargetLabels, attempts_of, status_of

_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)
#: First path segment behind ``/v1/`` → route. The endpoints below `chat` are one route.
ROUTES: Final[Mapping[str, str]] = {
    name: name
    for name in (
        *("chat", "completions", "embeddings", "responses", "images", "audio"),
        *("models", "files", "realtime"),
    )
}
#: 499 means that the client left before the response head.
_STATUSES: Final = frozenset({str(status.value) for status in HTTPStatus} | {"499"})
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,79}", re.ASCII)
#: Far more than a project uses, and the limit for an attacker with a valid access token.
_MAX_MODELS: Final = 100
_MAX_PAIRS: Final = 200
#: How many of these pairs one access token, and one project, may introduce. With an upstream that
#: repeats any model name it is sent, a client can make up any number of names.
_MAX_PAIRS_PER_TOKEN: Final = 16
_MAX_PAIRS_PER_PROJECT: Final = 48


def route_label(path: str) -> str:
    """The route class of a path below ``/v1/``."""
    if not path.startswith("/v1/"):
        return OTHER
    return ROUTES.get(path[4:].partition("/")[0], OTHER)


def method_label(given: str) -> str:
    return given if given in _METHODS else OTHER


def status_label(code: int) -> str:
    """A registered status as it is; any other as its class, such as ``4xx``."""
    text = str(code)
    return text if text in _STATUSES else f"{text[:1]}xx"


class Consumers:
    """The pairs of project and model that have series of their own.

    These are the first pairs up to a limit. Each access token and each project has a limit too.
    """

    def __init__(self, max_models: int = _MAX_MODELS, max_pairs: int = _MAX_PAIRS) -> None:
        self._max_models = max_models
        self._max_pairs = max_pairs
        self._models: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        #: Access token or project → number of pairs that it introduced.
        self._introduced: dict[str, int] = {}

    def labels(self, project: str, model: object, token: str | None = None) -> tuple[str, str]:
        """Returns (project, model) as labels.

        `model` is the name that the upstream reported; `token` identifies the access token.
        """
        name = model if isinstance(model, str) and _MODEL.fullmatch(model) else OTHER
        if (project, name) not in self._pairs and not self._may_introduce(project, name, token):
            name = OTHER
        pair = (project, name)
        if pair in self._pairs:
            return pair
        if len(self._pairs) >= self._max_pairs:
            return OTHER, OTHER
        self._pairs.add(pair)
        if name != OTHER:
            self._models.add(name)
            for account in self._accounts(project, token):
                self._introduced[account] = self._introduced.get(account, 0) + 1
        return pair

    def _may_introduce(self, project: str, name: str, token: str | None) -> bool:
        if name not in self._models and len(self._models) >= self._max_models:
            return False
        bounds = self._accounts(project, token)
        return all(self._introduced.get(account, 0) < bound for account, bound in bounds.items())

    def _accounts(self, project: str, token: str | None) -> dict[str, int]:
        bounds = {} if project == OTHER else {project: _MAX_PAIRS_PER_PROJECT}
        return bounds if token is None else {**bounds, token: _MAX_PAIRS_PER_TOKEN}


_log = logging.getLogger(__name__)

#: Field of an event's metadata → the label `kind`.
_KINDS: Final[Mapping[str, str]] = {
    "prompt_tokens": "prompt",
    "completion_tokens": "completion",
    "cached_tokens": "cached",
    "reasoning_tokens": "reasoning",
}
#: The proxy's codes for a limit that was reached.
_LIMITS: Final = frozenset({"rate_limit_exceeded", "quota_exceeded", "overloaded"})


class RequestMetrics:
    """One per worker."""

    def __init__(self, samples: Samples, targets: TargetLabels) -> None:
        self._samples = samples
        self._targets = targets
        self._consumers = Consumers()
        self._failed = False
        # Set to 0 at the start, so that the first event shows as a rise.
        for code in sorted(_LIMITS):
            samples.count("proxy_rate_limited_total", (code,), 0)
        for code in sorted(CUT_CODES):
            samples.count("proxy_requests_cut_total", (code,), 0)

    def observe(self, events: Iterable[UsageEvent]) -> None:
        """Count `events`. Never raises, because the caller still has to deliver them."""
        for event in events:
            try:
                self._observe(event)
            except Exception:  # noqa: BLE001
                if not self._failed:
                    _log.exception("metrics: an event cannot be counted")
                self._failed = True

    def count_response(self, route: str, method: str, status: int) -> None:
        """Count a response of the proxy's own pages.

        `route` is `management`, `status` or `other`.
        """
        outcome = "completed" if status < 400 else "rejected" if status < 500 else "aborted"
        key = (route, method_label(method), status_label(status), outcome)
        self._samples.count("proxy_requests_total", key)

    def _observe(self, event: UsageEvent) -> None:
        if event.outcome == "superseded":
            # An attempt of a request that has its own event, with this attempt in it.
            self.tokens(event)
            return
        samples = self._samples
        route = route_label(event.endpoint)
        samples.count(
            "proxy_requests_total",
            (
                route,
                method_label(event.method),
                status_label(event.status_code or 0),
                event.outcome,
            ),
        )
        by_route = (route,)
        duration = (event.duration_ms or 0.0) / 1e3
        samples.observe("proxy_request_duration_seconds", duration, by_route)
        if event.ttfb_ms is not None:
            samples.observe("proxy_time_to_first_byte_seconds", event.ttfb_ms / 1e3, by_route)
        if event.upstream_ms is not None:
            upstream = event.upstream_ms / 1e3
            samples.observe("proxy_upstream_duration_seconds", upstream, by_route)
            if event.outcome == "completed":
                own = duration - upstream - (event.queue_ms or 0.0) / 1e3
                samples.observe("proxy_overhead_seconds", max(0.0, own), by_route)
        self._attempts(event)
        if event.cache is not None:
            self._saved(event.cache)
        code = event.error_code
        if code is not None:
            known = code if code in STATUS_BY_CODE else OTHER
            samples.count("proxy_errors_total", (known,))
            if code in _LIMITS:
                samples.count("proxy_rate_limited_total", (code,))
            if code in CUT_CODES and event.outcome == "aborted":
                samples.count("proxy_requests_cut_total", (code,))
        if event.bytes_in:
            samples.count("proxy_body_bytes_total", ("in",), event.bytes_in)
        if event.bytes_out:
            samples.count("proxy_body_bytes_total", ("out",), event.bytes_out)
        if event.method != "GET" or not event.is_read:
            self.tokens(event)

    def _saved(self, facts: CacheFacts) -> None:
        samples = self._samples
        samples.count("proxy_cache_requests_total", (facts.how,))
        for kind, tokens in (
            ("prompt", facts.saved_prompt_tokens),
            ("completion", facts.saved_completion_tokens),
        ):
            if tokens:
                samples.count("proxy_saved_tokens_total", (kind,), tokens)

    def _attempts(self, event: UsageEvent) -> None:
        samples, routing = self._samples, event.routing
        name = "proxy_provider_requests_total"
        status: str | None = ERROR  # what the cache served covers for an upstream that failed
        if event.cache is None:
            status = status_of(event.status_code, event.error_code)
        if routing is None:
            if event.upstream_ms is not None and status is not None:
                samples.count(name, (OWN_KEY, "", status))
            return
        for provider, model, label in attempts_of(routing, status):
            if label is not None:
                samples.count(name, (*self._targets.target(provider, model), label))
        for reason in routing.moves:
            samples.count("proxy_fallbacks_total", (self._targets.alias(routing.alias), reason))

    def tokens(self, event: UsageEvent) -> None:
        """Count the LLM tokens of a generation, or of a read that the ledger has counted."""
        metadata = event.metadata
        if "prompt_tokens" not in metadata and "completion_tokens" not in metadata:
            return
        # In pass-through mode there is no id; the hash of the client's key identifies it.
        token = event.token_id or event.token
        labels = self._consumers.labels(event.project_id or OTHER, metadata.get("model"), token)
        for field, kind in _KINDS.items():
            tokens = metadata.get(field)
            if isinstance(tokens, int) and tokens:
                self._samples.count("proxy_tokens_total", (kind, *labels), tokens)
