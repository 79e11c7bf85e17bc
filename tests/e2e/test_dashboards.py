"""The dashboard and the alert rules in ``deploy/``, against a server that was really scraped.

Twice: names and labels are looked for in the scraped page, everywhere; and where Prometheus is
installed it scrapes two workers and executes every query.
"""

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fake_upstream import Upstream
from tests.support.mock_provider import MockProvider, status
from tests.support.server import ROOT, ProxyServer
from tests.support.services import Prometheus
from tests.support.services.process import require
from tests.support.wait import wait_until

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "openai-proxy.json"
TOKEN = "metrics-token-canary-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
#: Of the shipper, which is off here, and of what does not happen here: declared, without series.
EMPTY = {
    "proxy_sink_delivered_total",
    "proxy_cache_errors_total",
    "proxy_cache_evictions_total",
    "proxy_cache_rejected_total",
    "proxy_idempotent_total",
}


def panels() -> dict[str, list[str]]:
    """Title → queries, with Grafana's variables filled in."""
    found: dict[str, list[str]] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$instance", ".*").replace("$__range", "5m")
            query = query.replace("$__rate_interval", "30s")
            found.setdefault(f"{panel['id']} {panel['title']}", []).append(query)
    return found


def alerts() -> dict[str, str]:
    """Name → expression."""
    found = {}
    for part in re.split(r"^ +- alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]:
        name = part.split("\n", 1)[0].strip()
        (expression,) = re.findall(
            r"^ +expr: (?:>-\n)?(.*?)\n +(?:for|labels): ?", part, re.DOTALL | re.MULTILINE
        )
        found[name] = " ".join(expression.split())
    return found


QUERIES = {
    **panels(),
    **{k: [v] for k, v in alerts().items()},
}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[ProxyServer]:
    folder = tmp_path_factory.mktemp("served")
    server = ProxyServer(folder, session_upstream.url, METRICS_TOKEN=TOKEN, CACHE_TTL="5m").start()
    project = server.create_project()
    token = server.mint(project["id"], max_requests=3000)["token"]
    body = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "hi"}]}
    stop = False
    failing, serving = MockProvider(keys={"sk-refused"}), MockProvider(keys={"sk-good"})
    routed = routed_token(server, failing, serving)

    def go_on() -> None:
        """Requests that succeed, one that is refused, and one whose first provider fails in one
        way after the other, until the module's tests are over."""
        codes = itertools.cycle((500, 400, 429))
        while not stop:
            failing.always(status(next(codes), retry_after=0))
            requests.post(
                f"{server.url}/v1/chat/completions",
                json={**body, "model": "smart"},
                headers={"Authorization": f"Bearer {routed}"},
                timeout=30,
            )
            for bearer in (token, token, "sk-" + "x" * 22):
                requests.post(
                    f"{server.url}/v1/chat/completions",
                    json=body,
                    headers={"Authorization": f"Bearer {bearer}"},
                    timeout=30,
                )
            server.manage("GET", "/projects")
            gevent.sleep(0.2)

    greenlet = gevent.spawn(go_on)
    for seen in (
        b'proxy_tokens_total{kind="prompt"',
        b"proxy_errors_total{",
        b"proxy_fallbacks_total{",
        b'"refused"',
    ):
        wait_until(lambda seen=seen: seen in page(server))  # type: ignore[misc]
    yield server
    stop = True
    greenlet.join()
    server.stop()
    failing.stop()
    serving.stop()


def routed_token(server: ProxyServer, *providers: MockProvider) -> str:
    """An access token of a project whose alias `smart` has these targets."""
    for index, provider in enumerate(providers):
        name = f"provider-{index}"
        config = {"allow_private": True}
        for kind, record in (
            (
                "providers",
                {
                    "name": name,
                    "provider_type": "openai",
                    "base_url": provider.base_url,
                    "config": config,
                },
            ),
            ("keys", {"provider": name, "name": "key", "value": min(provider.keys or ())}),
            (
                "mappings",
                {
                    "alias_name": "smart",
                    "provider": name,
                    "provider_model_name": f"model-{index}",
                    "order_index": index,
                },
            ),
        ):
            assert server.manage("POST", f"/{kind}", record).status_code == 201
    project = server.manage("POST", "/projects", {"name": "routed", "providers": ["*"]}).json()
    return str(server.mint(project["id"])["token"])


def page(server: ProxyServer) -> bytes:
    answer = requests.get(f"{server.url}/metrics", headers=BEARER, timeout=30)
    assert answer.status_code == 200
    return answer.content


def test_there_are_queries() -> None:
    assert len(panels()) > 30
    assert len(alerts()) == RULES.read_text().count("- alert: ") > 15


@pytest.mark.parametrize("title", QUERIES)
def test_every_name_and_label_is_in_the_scraped_page(served: ProxyServer, title: str) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page(served).decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
        labels.setdefault(family.name, set())
        labels.setdefault(f"{family.name}_total", set())
    labels["up"] = set()
    for query in QUERIES[title]:
        named = re.findall(r"\b(up|proxy_[a-z_]+)\b(?:\{([^}]*)\})?", query)
        assert named
        known = {"instance", "job"}
        for name, selector in named:
            assert name in labels, f"{name} is not in the scraped page"
            known |= labels[name]
            if name not in EMPTY:
                matched = set(re.findall(r'([a-z_]+)\s*[=!]~?"', selector))
                assert matched <= labels[name] | {"instance", "job"}, query
        grouped = {
            label.strip()
            for part in re.findall(r"\bby \(([^)]*)\)", query)
            for label in part.split(",")
        }
        if not {name for name, _ in named} & EMPTY:
            assert grouped <= known, query


@pytest.fixture(scope="module")
def prometheus(served: ProxyServer) -> Iterator[Prometheus]:
    target = f"127.0.0.1:{served.port}"
    with Prometheus([target], RULES, TOKEN) as running:
        wait_until(lambda: enough(running), seconds=60)
        yield running


def enough(prometheus: Prometheus) -> bool:
    """Rates want several scrapes."""
    (up,) = prometheus.query("count_over_time(up[1m])") or [{"value": [0, "0"]}]
    return int(up["value"][1]) >= 5 and bool(
        prometheus.query("rate(proxy_requests_total[30s]) > 0")
    )


@pytest.mark.parametrize("title", panels())
def test_every_panel_shows_something(prometheus: Prometheus, title: str) -> None:
    for query in panels()[title]:
        found = prometheus.query(query)
        if not any(name in query for name in EMPTY):
            assert found, query


def test_the_rules_are_sound_and_quiet(prometheus: Prometheus) -> None:
    def groups() -> Any:
        return prometheus.ask("rules")["groups"]

    wait_until(lambda: all(rule["health"] != "unknown" for g in groups() for rule in g["rules"]))
    (group,) = groups()
    assert [rule["name"] for rule in group["rules"]] == list(alerts())
    assert {rule["health"] for rule in group["rules"]} == {"ok"}, group
    # The machine that runs this may be short of disk or processor; nothing else is wrong here.
    busy = {"ProxyDiskFull", "ProxySlow", "ProxyEventLoopStalls"}
    firing = {rule["name"] for rule in group["rules"] if rule["state"] == "firing"}
    assert firing <= busy


@pytest.mark.parametrize(
    "name", [name for name, rule in alerts().items() if not any(empty in rule for empty in EMPTY)]
)
def test_an_alert_can_fire(prometheus: Prometheus, name: str) -> None:
    """Without its threshold every rule finds something to compare."""
    expression = alerts()[name]
    left = re.split(r" (?:==|<|>) (?=[0-9.]+|proxy_)", expression)[0]
    if "5.." in expression:
        # Nothing of the kind has happened: only that the query has the other side.
        left = left.rpartition(" / ")[2]
    assert prometheus.query(left), left


def test_promtool_agrees(served: ProxyServer, tmp_path: Path) -> None:
    promtool = require("promtool", package="--no-install-recommends prometheus")
    checked = subprocess.run(
        [promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    linted = subprocess.run(
        [promtool, "check", "metrics"], input=page(served), capture_output=True, check=False
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr
