"""``/metrics`` for Prometheus and ``/stats`` for people: the figures of all workers together."""

from collections.abc import Callable, Mapping
from typing import Any

import flask

from proxy.metrics import exposition
from proxy.metrics.figures import Figures
from proxy.metrics.summary import summarise
from proxy.web.replies import json_reply


def create_blueprint(read: Callable[[], Figures], facts: Mapping[str, Any]) -> flask.Blueprint:
    """``read`` may raise ProxyError; ``facts`` are settings that ``/stats`` repeats."""
    blueprint = flask.Blueprint("metrics", __name__)

    def metrics() -> flask.Response:
        accept = flask.request.headers.get("Accept", "")
        page, content_type = exposition.render(read(), accept)
        return flask.Response(page, content_type=content_type)

    def stats() -> flask.Response:
        figures = read()
        summary = summarise(figures)
        entries = sum(figures.values.get("proxy_token_cache_entries", {}).values())
        cache = {"item_count": entries, **facts["cache"], **summary.pop("token_cache")}
        return json_reply({**facts, "cache": cache, **summary})

    blueprint.add_url_rule("/metrics", "metrics", metrics)
    blueprint.add_url_rule("/stats", "stats", stats)
    return blueprint
