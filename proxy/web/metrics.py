"""``/metrics`` for Prometheus and ``/stats`` for people: the figures of all workers together."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import flask

from proxy.metrics import exposition
from proxy.metrics.samples import Samples
from proxy.metrics.stats_page import summarise
from proxy.web.replies import json_reply

T = TypeVar("T")


class Read(Protocol):
    """Hands everybody's figures to ``make``, on a thread of its own, and returns what it made."""

    def __call__(self, make: Callable[[Samples], T], /) -> T: ...


def create_blueprint(read: Read, facts: Mapping[str, Any]) -> flask.Blueprint:
    """``read`` may raise ProxyError; ``facts`` are settings that ``/stats`` repeats."""
    blueprint = flask.Blueprint("metrics", __name__)

    def metrics() -> flask.Response:
        accept = flask.request.headers.get("Accept", "")
        page, content_type = read(lambda figures: exposition.render(figures, accept))
        return flask.Response(page, content_type=content_type)

    def stats() -> flask.Response:
        summary, entries = read(_summary)
        cache = {"item_count": entries, **facts["cache"], **summary.pop("token_cache")}
        return json_reply({**facts, "cache": cache, **summary})

    blueprint.add_url_rule("/metrics", "metrics", metrics)
    blueprint.add_url_rule("/stats", "stats", stats)
    return blueprint


def _summary(figures: Samples) -> tuple[dict[str, Any], float]:
    """It, and how many tokens are remembered."""
    return summarise(figures), sum(figures.values.get("proxy_token_cache_entries", {}).values())
