"""`Idempotency-Key` through the real server: a request is sent once, whatever becomes of it."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import gevent
import openai
import pytest
import requests

from tests.support.cache_house import ASK, House
from tests.support.fake_upstream import Upstream
from tests.support.ports import free_port
from tests.support.proxy_access import ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.services.redis import RedisServer
from tests.support.wait import wait_until

GATED = "/v1/behave/gated-json"
KEY = "Idempotency-Key"


@pytest.fixture(scope="module")
def keyed_house(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[House]:
    """Two workers, and no `CACHE_TTL`."""
    proxy = ProxyServer(
        tmp_path_factory.mktemp("idempotency"), session_upstream.url, CACHE_MAX_ENTRY="64KiB"
    ).start()
    yield House(proxy, session_upstream)
    assert proxy.stop() == 0, proxy.log_text()
    assert "Traceback" not in proxy.log_text(), proxy.log_text()


@pytest.fixture
def house(keyed_house: House, upstream: Upstream) -> House:
    return keyed_house


@pytest.fixture
def token(house: House) -> str:
    return house.token(cache="off", idempotency="on")


def replayed(house: House, token: str, key: str, body: Any = ASK, **more: Any) -> requests.Response:
    """Ask again, in whichever worker."""
    response = house.ask(token, body, Idempotency_Key=key, **more)
    assert response.headers["Idempotent-Replayed"] == "true"
    assert response.headers["X-Idempotency-Scope"] == "node"
    return response


def code(response: requests.Response) -> str:
    return str(response.json()["error"]["code"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_retry_gets_the_first_response_byte_for_byte(
    house: House, token: str, stream: bool
) -> None:
    body = {**ASK, "stream": True, "stream_options": {"include_usage": True}} if stream else ASK
    first = house.ask(token, body, Idempotency_Key="order-1")
    assert first.status_code == 200
    assert first.headers["X-Idempotency-Scope"] == "node"
    assert "Idempotent-Replayed" not in first.headers
    assert "X-Cache" not in first.headers
    events: list[dict[str, Any]] = []

    def is_in_the_store() -> bool:
        # What comes sooner joins the request that has just ended.
        again = replayed(house, token, ["order-1", '"order-1"'][len(events) % 2], body)
        assert again.content == first.content
        assert again.headers["Content-Type"] == first.headers["Content-Type"]
        events.append(house.event(again))
        return len(events) >= 8 and events[-1]["cache"] == "replayed"

    wait_until(is_in_the_store)
    assert len(house.upstream.received) == 1
    paid, free = house.event(first), events[-1]
    assert (paid["outcome"], paid.get("cache")) == ("completed", None)
    assert paid["metadata"]["total_tokens"] == 21
    assert (free["outcome"], free["cache"], free["stream"]) == ("cached", "replayed", stream)
    assert (free["usage_source"], free["metadata"]["total_tokens"]) == ("cached", 0)
    assert (free["saved_prompt_tokens"], free["saved_completion_tokens"]) == (9, 12)


def test_twins_are_sent_once(house: House, token: str) -> None:
    asking = [
        gevent.spawn(house.ask, token, ASK, path=GATED, Idempotency_Key="twin") for _ in range(8)
    ]
    wait_until(lambda: bool(house.upstream.received))
    house.upstream.gate.release()
    gevent.joinall(asking, raise_error=True)
    responses = [each.value for each in asking]
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1
    assert len(house.upstream.received) == 1
    events = [house.event(response) for response in responses]
    assert sorted(event.get("cache", "paid") for event in events).count("paid") == 1
    assert sum(event["metadata"].get("total_tokens", 0) for event in events) == 21


def test_a_client_that_left_gets_its_response_later(house: House, token: str) -> None:
    lines = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]
    lines += [(KEY, "left"), ("X-Request-ID", "idempotency-left")]
    body = json.dumps(ASK).encode()
    with RawClient(house.proxy.port) as client:
        client.request("POST", GATED, lines, body)
        wait_until(lambda: bool(house.upstream.received))
    house.upstream.gate.release()
    with RawClient(house.proxy.port) as client:
        client.request("POST", GATED, lines, body)
        later = client.read_response("POST")
    assert (later.status, later.values("Idempotent-Replayed")) == (200, ["true"])
    assert json.loads(later.body)["usage"]["total_tokens"] == 21
    assert len(house.upstream.received) == 1
    paid = house.events_of("idempotency-left", 2)
    assert {event["outcome"] for event in paid} == {"client_gone", "cached"}
    assert sum(event["metadata"].get("total_tokens", 0) for event in paid) == 21


def test_another_request_with_the_key_is_refused(house: House, token: str) -> None:
    assert house.ask(token, ASK, Idempotency_Key="a").status_code == 200
    other = house.ask(token, {**ASK, "temperature": 0}, Idempotency_Key="a")
    assert (other.status_code, code(other)) == (422, "idempotency_key_reused")
    assert len(house.upstream.received) == 1
    # Keys belong to an access token.
    other_token = house.token(cache="off", idempotency="on")
    assert house.ask(other_token, ASK, Idempotency_Key="a").status_code == 200
    assert len(house.upstream.received) == 2


def test_what_came_of_the_keys_is_counted(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    house = House(own_proxy().start(), upstream)
    token = house.token(cache="off", idempotency="on")
    house.ask(token, ASK, Idempotency_Key="counted")
    replayed(house, token, "counted")
    house.ask(token, {**ASK, "n": 2}, Idempotency_Key="counted")

    def counted(*states: str) -> float:
        return sum(house.metric(f'idempotent_total{{state="{state}"}}') for state in states)

    def all_counted() -> bool:
        # What comes before the result is written joins the request that has just ended.
        states = counted("new"), counted("replayed", "joined"), counted("reused")
        return states == (1, 1, 1)

    wait_until(all_counted)


def test_replays_cost_no_quota_and_are_refused_with_a_spent_one(house: House) -> None:
    token = house.token({"max_requests": 2}, cache="off", idempotency="on")
    house.ask(token, ASK, Idempotency_Key="one")
    for _ in range(3):
        replayed(house, token, "one")
    assert house.ask(token, ASK, Idempotency_Key="two").status_code == 200

    def is_spent() -> bool:
        # A worker may have looked a second ago.
        response = house.ask(token, ASK, Idempotency_Key="two")
        return response.status_code == 429 and code(response) == "quota_exceeded"

    wait_until(is_spent)
    assert len(house.upstream.received) == 2


@pytest.mark.parametrize("key", ["", '""', '"open', "with space", "caf\xe9", "k" * 256])
def test_a_bad_key_is_refused(house: House, token: str, key: str) -> None:
    response = house.ask(token, ASK, Idempotency_Key=key)
    assert (response.status_code, code(response)) == (400, "invalid_idempotency_key")
    assert not house.upstream.received


def test_two_keys_are_refused(house: House, token: str) -> None:
    body = json.dumps(ASK).encode()
    lines = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]
    with RawClient(house.proxy.port) as client:
        client.request("POST", "/v1/chat/completions", [*lines, (KEY, "a"), (KEY, "b")], body)
        response = client.read_response("POST")
    assert response.status == 400
    assert b"more than one" in response.body
    assert not house.upstream.received


def test_the_header_goes_upstream_and_means_nothing_elsewhere(house: House, token: str) -> None:
    house.ask(token, ASK, Idempotency_Key='"relayed"')
    off = house.token(cache="off")
    for _ in range(2):
        response = house.ask(off, ASK, Idempotency_Key="with space")
        assert response.status_code == 200
        assert "X-Idempotency-Scope" not in response.headers
    sent = [request.values(KEY) for request in house.upstream.received]
    assert sent == [['"relayed"'], ["with space"], ["with space"]]


def test_what_was_not_paid_is_sent_again(house: House, token: str) -> None:
    for path in ("/v1/behave/hang-up", "/v1/behave/cut-length"):
        for _ in range(2):
            with pytest.raises(requests.RequestException):
                house.ask(token, ASK, path=path, Idempotency_Key=path).raise_for_status()
    assert len(house.upstream.received) >= 4


@pytest.mark.parametrize("model", ["error-429", "error-500"])
def test_an_error_that_may_pass_is_not_kept(house: House, token: str, model: str) -> None:
    body = {**ASK, "model": model}
    for number in (1, 2, 3):
        response = house.ask(token, body, Idempotency_Key=model)
        assert response.status_code == int(model[-3:])
        assert "Idempotent-Replayed" not in response.headers
        assert len(house.upstream.received) == number


def test_a_final_error_is_kept(house: House, token: str) -> None:
    first = house.ask(token, ASK, path="/v1/nowhere", Idempotency_Key="404")
    assert first.status_code == 404
    again = replayed(house, token, "404", path="/v1/nowhere")
    assert (again.status_code, again.content) == (404, first.content)
    assert len(house.upstream.received) == 1


def test_a_response_that_is_too_large_is_not_sent_for_twice(house: House, token: str) -> None:
    body = {**ASK, "user": "x" * 70_000}
    first = house.ask(token, body, path="/v1/behave/echo", Idempotency_Key="large")
    assert len(first.content) > 70_000

    def is_known() -> bool:
        again = house.ask(token, body, path="/v1/behave/echo", Idempotency_Key="large")
        return again.status_code == 422 and "too large" in again.text

    wait_until(is_known)
    assert len(house.upstream.received) == 1


@pytest.mark.parametrize("size", [5, 500_000])
def test_an_upload_is_only_relayed(house: House, token: str, size: int) -> None:
    for _ in range(2):
        response = requests.post(
            f"{house.proxy.url}/v1/files",
            headers={"Authorization": f"Bearer {token}", KEY: "upload"},
            files={"file": ("a.txt", b"h" * size)},
            data={"purpose": "assistants"},
            timeout=30,
        )
        assert response.status_code == 200
        assert "X-Idempotency-Scope" not in response.headers
    assert len(house.upstream.received) == 2


class Sdk:
    """The official client, whose first try gets no response in time."""

    def __init__(self, house: House, token: str) -> None:
        self.house = house
        self.tries = 0
        self.client = openai.OpenAI(
            base_url=f"{house.proxy.url}{GATED}",
            api_key=token,
            timeout=1,
            max_retries=2,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._tried]}),
        )

    def _tried(self, _: object) -> None:
        self.tries += 1
        if self.tries > 1:
            self.house.upstream.gate.release()

    def ask(self, **headers: str) -> None:
        with self.client:
            answer = self.client.chat.completions.create(**ASK, extra_headers=headers)
        assert answer.choices[0].message.content == "Hello there."
        assert self.tries > 1
        assert len(self.house.upstream.received) == 1


def test_the_sdk_s_retries_are_sent_once_with_a_key(house: House, token: str) -> None:
    Sdk(house, token).ask(**{KEY: "sdk"})


def test_the_sdk_s_retries_are_sent_once_without_one(house: House) -> None:
    Sdk(house, house.token(cache="off", on_disconnect="hold")).ask()


# More nodes than one.


def test_without_the_shared_store_nothing_is_sent(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server = own_proxy(CACHE_URL=f"redis://127.0.0.1:{free_port()}/0").start()
    house = House(server, upstream)
    token = house.token(cache="off", idempotency="on")
    refused = house.ask(token, ASK, Idempotency_Key="away")
    assert (refused.status_code, code(refused)) == (503, "store_unavailable")
    assert refused.headers["X-Idempotency-Scope"] == "cluster"
    assert "Retry-After" in refused.headers
    assert not upstream.received
    assert house.ask(token, ASK).status_code == 200


def test_a_key_is_known_on_every_node(
    own_proxy: ProxyFactory, upstream: Upstream, redis_server: RedisServer
) -> None:
    cache = redis_server.url
    one = own_proxy(CACHE_URL=cache, WEB_CONCURRENCY="1").start()
    database = f"sqlite:///{one.environ['DATA_DIR']}/proxy.db"
    two = own_proxy(CACHE_URL=cache, WEB_CONCURRENCY="1", DATABASE_URL=database).start()
    here, there = House(one, upstream), House(two, upstream)
    token = here.token(cache="off", idempotency="on")
    first = gevent.spawn(here.ask, token, ASK, path=GATED, Idempotency_Key="far")
    wait_until(lambda: bool(upstream.received))
    twin = gevent.spawn(there.ask, token, ASK, path=GATED, Idempotency_Key="far")
    wait_until(lambda: twin.ready() or there.metric("requests_in_flight") > 0)
    upstream.gate.release()
    assert first.get().status_code == 200
    assert twin.get().status_code in (200, 409)
    found: list[requests.Response] = []

    def is_there() -> bool:
        found.append(there.ask(token, ASK, path=GATED, Idempotency_Key="far"))
        assert found[-1].status_code in (200, 409)
        return found[-1].status_code == 200

    wait_until(is_there, 60)
    again = found[-1]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["X-Idempotency-Scope"] == "cluster"
    assert again.content == first.get().content
    assert len(upstream.received) == 1


def test_a_killed_worker_s_key_is_free_again(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, _ = own_proxy.started()
    house = House(server, upstream)
    token = house.token(cache="off", idempotency="on")

    def ask_in_vain() -> None:
        with pytest.raises(requests.RequestException):
            house.ask(token, ASK, path=GATED, Idempotency_Key="killed")

    first = gevent.spawn(ask_in_vain)
    wait_until(lambda: bool(upstream.received))
    for pid in server.worker_pids():
        os.kill(pid, signal.SIGKILL)
    first.get()
    upstream.gate.release()
    upstream.gate.release()
    statuses: list[int] = []

    def is_free() -> bool:
        try:
            again = house.ask(token, ASK, path=GATED, Idempotency_Key="killed")
        except requests.ConnectionError:
            return False  # there is no worker
        statuses.append(again.status_code)
        if again.status_code == 409:
            assert (code(again), again.headers["Retry-After"]) == ("idempotency_in_progress", "5")
        return again.status_code == 200

    wait_until(is_free, 60)
    assert set(statuses) <= {200, 409, 503}
    assert len(upstream.received) == 2
    assert house.event_of("cache-1")["outcome"] == "unknown"
    wait_until(lambda: house.metric('idempotent_total{state="unknown_outcome"}') == 1)
