"""``/metrics`` for Prometheus and ``/stats`` for people: the samples of all workers together."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import flask

from proxy.metrics import exposition
from proxy.metrics.samples import Samples
from proxy.metrics.stats_page import summarise
from proxy.web.replies import json_reply

T = TypeVar("T")


class Read(Protocol):
    """Calls ``make`` with all workers' samples, on a thread of its own. Returns its result."""

    def __call__(self, make: Callable[[Samples], T], /) -> T: ...


def create_blueprint(read: Read, facts: Mapping[str, Any]) -> flask.Blueprint:
    """``read`` may raise ProxyError. ``facts`` are settings that ``/stats`` shows."""
    blueprint = flask.Blueprint("metrics", __name__)

    def metrics() -> flask.Response:
        accept = flask.request.headers.get("Accept", "")
        page, content_type = read(lambda samples: exposition.render(samples, accept))
        return flask.Response(page, content_type=content_type)

    def stats() -> flask.Response:
        summary = read(summarise)
        caches = {name: {**facts[name], **summary[name]} for name in ("token_cache", "cache")}
        return json_reply({**facts, **summary, **caches})

    blueprint.add_url_rule("/metrics", "metrics", metrics)
    blueprint.add_url_rule("/stats", "stats", stats)
    return blueprint
