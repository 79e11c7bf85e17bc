"""``/metrics`` and ``/stats`` of a real server: right, whatever is done to its workers."""

import os
import signal
import time
from typing import Any

import gevent
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

CHAT = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "hi"}]}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: ProxyServer, **kwargs: Any) -> Samples:
    """Of one worker or another: each request is a connection of its own."""
    answer = requests.get(f"{server.url}/metrics", timeout=30, **kwargs)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the series of this name that have these labels."""
    wanted = labels.items()
    return sum(v for (found, has), v in samples.items() if found == name and wanted <= set(has))


def chat(server: ProxyServer, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{server.url}/v1/chat/completions"
    return requests.post(url, json=CHAT, headers=headers, timeout=30).status_code


def chats(samples: Samples) -> float:
    return value(samples, "proxy_requests_total", route="chat")


def test_any_worker_tells_of_all_and_nothing_goes_backwards(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="4")
    answers: list[int] = []

    def ask() -> None:
        answers.extend(chat(server, access.token) for _ in range(15))

    clients = [gevent.spawn(ask) for _ in range(4)]
    last: Samples = {}
    while not all(client.ready() for client in clients):
        samples = scrape(server)
        for (name, labels), before in last.items():
            if name.endswith(("_total", "_count", "_bucket", "_sum")):
                assert samples[name, labels] >= before, (name, labels)
        last = samples
    gevent.joinall(clients, raise_error=True)
    assert answers == [200] * 60
    wait_until(lambda: chats(scrape(server)) == 60)
    # Whichever worker is asked; a new connection each time meets several.
    seen = [scrape(server) for _ in range(12)]
    assert {chats(samples) for samples in seen} == {60}
    samples = seen[-1]
    assert value(samples, "proxy_workers") == 4
    for name in ("request_duration", "upstream_duration", "time_to_first_byte", "overhead"):
        assert value(samples, f"proxy_{name}_seconds_count", route="chat") == 60
    assert (
        value(samples, "proxy_provider_requests_total", provider="default", status="success") == 60
    )
    prompt = value(samples, "proxy_tokens_total", kind="prompt", project=access.project_id)
    assert prompt == 60 * 9
    assert value(samples, "proxy_token_cache_lookups_total") == 60
    assert value(samples, "proxy_upstream_connections_total") == 60
    assert value(samples, "proxy_database_up") == 1
    assert value(samples, "proxy_data_dir_size_bytes") > 0
    stats = requests.get(f"{server.url}/stats", timeout=30).json()
    assert stats["requests"]["by_route"]["chat"] == 60
    assert stats["cache"]["item_count"] == 0
    assert stats["workers"] == {"alive": 4, "expected": 4, "started": 4}
    assert 0 < stats["latency_ms"]["overhead"]["p50"] <= stats["latency_ms"]["total"]["p99"]

    def keeps_the_token() -> bool:
        # The mint of the token is a change, which makes the workers forget it once.
        assert chat(server, access.token) == 200
        stats = requests.get(f"{server.url}/stats", timeout=30).json()
        return bool(stats["token_cache"]["item_count"] > 0)

    wait_until(keeps_the_token)


def test_what_a_killed_worker_counted_stays(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="2")
    for round_ in range(1, 4):
        for _ in range(10):
            assert chat(server, access.token) == 200
        wait_until(lambda expected=10 * round_: chats(scrape(server)) == expected)  # type: ignore[misc]
        # Figures are a second old at most: after that nothing of what was counted can be lost.
        gevent.sleep(1)
        before = scrape(server)
        victims = server.worker_pids()[: 2 if round_ == 3 else 1]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda gone=victims: not set(gone) & set(server.worker_pids()))  # type: ignore[misc]
        server.wait_ready()
        wait_until(lambda: value(scrape(server), "proxy_workers") == 2)
        after = scrape(server)
        assert chats(after) == 10 * round_
        for (name, labels), counted in before.items():
            if name.endswith(("_total", "_count", "_bucket")):
                assert after[name, labels] >= counted, (name, labels)
    assert value(after, "proxy_process_starts_total", process="worker") == 2 + 1 + 1 + 2
    # A reload replaces the workers and keeps what they counted; a restart begins at 0.
    old = set(server.worker_pids())
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not old & set(server.worker_pids()) and len(server.worker_pids()) == 2)
    wait_until(lambda: value(scrape(server), "proxy_workers") == 2)
    assert chats(scrape(server)) == 30
    assert server.stop() == 0
    server.spawn()
    server.wait_ready()
    assert chats(scrape(server)) == 0


def test_two_servers_on_one_folder_count_for_themselves(own_proxy: ProxyFactory) -> None:
    one, access = own_proxy.started()
    two = own_proxy(DATA_DIR=one.environ["DATA_DIR"]).start()
    for _ in range(3):
        assert chat(one, access.token) == 200
    wait_until(lambda: chats(scrape(one)) == 3)
    assert chats(scrape(two)) == 0


def test_a_stranger_makes_no_labels(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="1")
    requests.get(f"{server.url}/health", timeout=30)
    chat(server, access.token)

    def series() -> set[Any]:
        # Without what comes by itself once there was a first process, or a first change.
        others = ("proxy_process", "proxy_revocation")
        return {key for key in scrape(server) if not key[0].startswith(others)}

    evil = "EVIL"
    with RawClient(server.port) as client:
        for number in range(60):
            bearer = access.bearer if number % 2 else ("Authorization", "Bearer sk-EVIL")
            target = f"/v1/{evil}{number}/{'x' * number}" if number % 3 else f"/{evil}{number}"
            method = "GET" if number % 5 else f"{evil}{number}"
            body = b'{"model": "EVIL%d", "messages": []}' % number
            headers = [bearer, ("Content-Type", "application/json"), ("X-Request-ID", evil)]
            client.request(method, target, headers, body)
            client.read_response(method)
    wait_until(lambda: value(scrape(server), "proxy_requests_total", route="other") >= 60)
    found = series()
    text = requests.get(f"{server.url}/metrics", timeout=30).text
    assert evil.lower() not in text.lower()
    # However many it sends, there are no more of them.
    with RawClient(server.port) as client:
        for number in range(60, 120):
            client.request("GET", f"/v1/{evil}{number}", [("Authorization", "Bearer sk-EVIL")])
            client.read_response("GET")
    wait_until(lambda: value(scrape(server), "proxy_requests_total", route="other") >= 120)
    assert series() == found


def test_a_running_stream_is_seen(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started()
    headers = dict([access.bearer])
    url = f"{server.url}/v1/behave/silent-midstream"
    with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
        assert answer.status_code == 200
        wait_until(lambda: value(scrape(server), "proxy_requests_in_flight") == 1)
    wait_until(lambda: value(scrape(server), "proxy_requests_total", outcome="client_gone") == 1)
    wait_until(lambda: value(scrape(server), "proxy_requests_in_flight") == 0)


@pytest.mark.parametrize("path", ["/metrics", "/stats"])
def test_the_token(own_proxy: ProxyFactory, path: str) -> None:
    token = "metrics-token-of-the-tests"
    server = own_proxy(METRICS_TOKEN=token, WEB_CONCURRENCY="1").start()
    url = server.url + path
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        refused = requests.get(url, headers=headers, timeout=30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_token")
    allowed = {"Authorization": f"Bearer {token}"}
    assert requests.get(url, headers=allowed, timeout=30).status_code == 200
    assert requests.get(f"{server.url}/health", timeout=30).status_code == 200


def test_a_scrape_is_small_and_its_size_is_known(proxy: ProxyServer, access: Access) -> None:
    """Its cost goes with the number of series, and that is bounded."""
    chat(proxy, access.token)
    proxy.events(1)  # others count on having read all of them
    wait_until(lambda: chats(scrape(proxy)) > 0)
    assert 100 < len(scrape(proxy)) < 3000


def test_a_data_dir_without_room_for_figures(own_proxy: ProxyFactory) -> None:
    server = own_proxy(WEB_CONCURRENCY="1")
    server.migrate()
    folder = server.folder / "data" / "metrics"
    folder.write_text("in the way")
    server.spawn()
    server.wait_ready()
    assert value(scrape(server), "proxy_workers") == 1
    assert server.stop() == 0
    assert server.log_text().count("metrics: samples cannot be written") == 1


def test_the_access_log(own_proxy: ProxyFactory) -> None:
    import json

    server, access = own_proxy.started(
        ACCESS_LOG="on", LOG_LEVEL="error", WEB_CONCURRENCY="1", TRUSTED_PROXIES="1"
    )
    client = {"X-Forwarded-For": "192.0.2.7"}
    requests.post(
        f"{server.url}/v1/chat/completions?key=query-canary",
        json=CHAT,
        headers={"Authorization": f"Bearer {access.token}", "X-Request-ID": "call-7", **client},
        timeout=30,
    )
    server.manage("GET", "/projects", headers={"X-Request-ID": "call-8", **client})

    def lines() -> dict[str, Any]:
        found = [json.loads(line) for line in server.log_text().splitlines()]
        return {
            line["request_id"]: line for line in found if line["logger"] == "proxy.logs.access_log"
        }

    wait_until(lambda: {"call-7", "call-8"} <= lines().keys())
    assert {lines()[name]["client_ip"] for name in ("call-7", "call-8")} == {"192.0.2.7"}
    line = lines()["call-7"]
    assert (line["path"], line["status"]) == ("/v1/chat/completions", 200)
    assert line["project_id"] == access.project_id
    assert {line["path"] for line in lines().values()} >= {"/ready", "/manage/projects"}
    assert "query-canary" not in server.log_text()
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 30
