"""``/metrics`` and ``/stats`` as pages."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.core.errors import BackendError
from proxy.metrics.samples import Samples
from proxy.web import AccessRecord, Mount, create_flask_app, metrics
from proxy.web.guards import MetricsGuard

TOKEN = "metrics-token-of-the-tests"
FACTS = {
    "service": "openai-proxy",
    "token_cache": {"ttl": 30.0},
    "cache": {"ttl": 60.0},
    "proxy_url": None,
}


def client(*tokens: str, read: Any = None, seen: list[AccessRecord] | None = None) -> FlaskClient:
    figures = Samples()
    figures.set("proxy_token_cache_entries", 4)
    figures.set("proxy_token_cache_lookups_total", 9, ("hit",))
    blueprint = metrics.create_blueprint(read or (lambda make: make(figures)), FACTS)
    rooms = [Mount(blueprint, None, MetricsGuard(tokens))]
    return create_flask_app(rooms, (seen if seen is not None else []).append).test_client()


def test_open_without_a_token() -> None:
    page = client().get("/metrics")
    assert page.status_code == 200
    assert page.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\nproxy_token_cache_entries 4.0\n" in page.data
    openmetrics = client().get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert openmetrics.content_type.startswith("application/openmetrics-text")
    assert openmetrics.data.endswith(b"# EOF\n")


def test_stats() -> None:
    stats: Any = client().get("/stats").json
    assert stats["token_cache"] == {"item_count": 4, "ttl": 30.0, "hit": 9}
    cache = stats["cache"]
    assert (cache["item_count"], cache["ttl"], cache["bytes"]) == (0, 60.0, 0)
    assert stats["service"] == "openai-proxy"
    assert stats["proxy_url"] is None
    assert stats["requests"]["total"] == 0


@pytest.mark.parametrize("path", ["/metrics", "/stats"])
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer ä"]
)
def test_with_a_token_set_other_clients_are_refused(path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    refused = client(TOKEN).get(path, headers=headers)
    assert refused.status_code == 401
    assert refused.json["error"]["code"] == "invalid_token"  # type: ignore[index]
    assert "METRICS_TOKEN" in refused.json["error"]["message"]  # type: ignore[index]
    assert "metrics" in refused.headers["WWW-Authenticate"]


@pytest.mark.parametrize("path", ["/metrics", "/stats"])
def test_with_the_token(path: str) -> None:
    asked = client("the-other-metrics-token", TOKEN)
    assert asked.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/stats"])
def test_figures_that_cannot_be_had(path: str) -> None:
    def fail(make: object) -> Samples:
        raise BackendError("Not now.")

    refused = client(read=fail).get(path)
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "store_unavailable")  # type: ignore[index]


def test_pages_are_reported_to_the_observer() -> None:
    seen: list[AccessRecord] = []
    asked = client(seen=seen)
    asked.get("/metrics?x=1", headers={"X-Request-ID": "scrape-1"})
    asked.post("/metrics")
    asked.get("/manage/nothing")
    asked.get("/nowhere")
    told = [(page.route, page.method, page.path, page.status) for page in seen]
    assert told == [
        ("status", "GET", "/metrics", 200),
        ("other", "POST", "/metrics", 405),
        ("management", "GET", "/manage/nothing", 404),
        ("other", "GET", "/nowhere", 404),
    ]
    assert seen[0].request_id == "scrape-1"
    assert seen[0].client_ip == "127.0.0.1"
    assert all(page.ms >= 0 for page in seen)
