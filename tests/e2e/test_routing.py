"""Projects with providers: the real server with two workers, and upstreams that fail by script."""

import json
from collections.abc import Iterator
from typing import Any

import gevent
import openai
import pytest
import requests

from tests.support.all_workers import all_workers
from tests.support.fake_upstream import Conversation, Upstream
from tests.support.mock_provider import MockProvider, error_event, reset, status
from tests.support.server import ProxyServer
from tests.support.wait import wait_until


def late_reset(provider: MockProvider, talk: Conversation) -> None:
    """Breaks the connection when the request must have been read: it cannot have been stale."""
    gevent.sleep(0.3)
    reset()(provider, talk)


class House:
    """Two providers: `first` with two keys, then `second` with one, behind the alias `smart`."""

    def __init__(self, proxy: ProxyServer, first: MockProvider, second: MockProvider) -> None:
        self.proxy = proxy
        self.first = first
        self.second = second
        self.providers: dict[str, str] = {}
        for name, upstream, keys in (("first", first, "12"), ("second", second, "3")):
            config = {"allow_private": True, "key_strategy": "priority"}
            body = {
                "name": name,
                "provider_type": "openai",
                "base_url": upstream.base_url,
                "config": config,
            }
            self.providers[name] = self.make("providers", body)["id"]
            for key in keys:
                self.make(
                    "keys", {"provider": name, "name": f"key-{key}", "value": f"sk-upstream-{key}"}
                )
        # `fragile` has models, and thus circuit breakers, of its own. A worker that knows `last`
        # knows all of them.
        for alias, model in (("fragile", "fragile-of"), ("smart", "model-of"), ("last", "last-of")):
            for index, name in ((1, "second"), (0, "first")):
                self.make(
                    "mappings",
                    {
                        "alias_name": alias,
                        "provider": name,
                        "provider_model_name": f"{model}-{name}",
                        "order_index": index,
                    },
                )
        project = self.make("projects", {"name": "routed", "providers": ["*"]})
        self.token = proxy.mint(project["id"])["token"]
        self.client = openai.OpenAI(
            base_url=f"{proxy.url}/v1", api_key=self.token, max_retries=0, timeout=30
        )
        wait_until(lambda: all_workers(self.serves))

    def make(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self.proxy.manage("POST", f"/{kind}", body)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made

    def serves(self) -> bool:
        """Whether a request on a new connection is served."""
        with openai.OpenAI(
            base_url=f"{self.proxy.url}/v1", api_key=self.token, max_retries=0
        ) as client:
            try:
                provider = chat(client, model="last").headers["x-proxy-provider"]
            except openai.OpenAIError:
                return False
        return bool(provider == "first")

    def fresh(self) -> None:
        """Forget what the upstreams received, and how they fail."""
        self.first.reset()
        self.second.reset()


def chat(client: openai.OpenAI, model: str = "smart", **more: Any) -> Any:
    return client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "Hi"}], **more
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream) -> Iterator[House]:
    proxy = ProxyServer(tmp_path_factory.mktemp("routing"), session_upstream.url).start()
    with (
        MockProvider(keys={"sk-upstream-1", "sk-upstream-2"}) as first,
        MockProvider(keys={"sk-upstream-3"}) as second,
    ):
        made = House(proxy, first, second)
        yield made
        made.client.close()
        assert proxy.stop() == 0, proxy.log_text()
        log = proxy.log_text()
        assert "Traceback" not in log, log
        assert "sk-upstream-" not in log


def test_a_model_goes_to_the_first_target_under_its_own_name(house: House) -> None:
    house.fresh()
    response = chat(house.client)
    assert response.headers["x-proxy-provider"] == "first"
    assert response.headers["x-proxy-model"] == "model-of-first"
    assert response.headers["x-proxy-attempts"] == "1"
    (received,) = house.first.received
    assert b'"model":"model-of-first"' in received.body.replace(b" ", b"")
    assert house.token.encode() not in repr(received).encode()
    assert not house.second.received


def test_a_key_that_is_refused_gives_way_to_the_next(house: House) -> None:
    house.fresh()
    house.first.for_key("sk-upstream-1", status(401))
    response = chat(house.client)
    assert response.headers["x-proxy-provider"] == "first"
    assert house.first.keys_used[-1] == "sk-upstream-2"


def test_a_provider_that_fails_gives_way_to_the_next(house: House) -> None:
    house.fresh()
    house.first.always(status(500))
    response = chat(house.client)
    assert response.headers["x-proxy-provider"] == "second"
    assert int(response.headers["x-proxy-attempts"]) > 1


def test_an_error_before_the_first_output_is_never_seen(house: House) -> None:
    house.fresh()
    house.first.always(error_event(529))
    response = chat(house.client, stream=True)
    assert response.headers["x-proxy-provider"] == "second"
    text = "".join(
        chunk.choices[0].delta.content or "" for chunk in response.parse() if chunk.choices
    )
    assert text == "One two three."


def test_an_outcome_that_is_not_known_is_not_paid_for_twice(house: House) -> None:
    house.fresh()
    house.first.always(late_reset)
    with pytest.raises(openai.APIStatusError) as caught:
        chat(house.client)
    assert caught.value.status_code == 502
    assert len(house.first.received) == 1
    assert not house.second.received


def test_an_unknown_model_is_not_found(house: House) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        chat(house.client, model="nothing-like-it")
    assert caught.value.code == "model_not_found"


def test_a_provider_may_be_named(house: House) -> None:
    house.fresh()
    response = chat(house.client, model="second/any-model")
    assert response.headers["x-proxy-provider"] == "second"
    assert response.headers["x-proxy-model"] == "any-model"


def test_a_models_name_may_be_in_any_script(house: House) -> None:
    house.fresh()
    response = chat(house.client, "second/模型")
    assert response.headers["x-proxy-model"] == "%E6%A8%A1%E5%9E%8B"


def test_a_client_does_not_say_whose_account_pays(house: House) -> None:
    house.fresh()
    account = {"x-api-key": "sk-theirs", "x-goog-user-project": "theirs"}
    query = {"key": "theirs", "a": "1"}
    chat(house.client, "second/any", extra_headers=account, extra_query=query)
    (received,) = house.second.received
    assert "theirs" not in repr(received)


def test_a_superseded_attempt_is_an_event_and_no_request(house: House) -> None:
    house.fresh()
    house.first.always(error_event(529))
    response = chat(house.client, model="fragile", stream=True)
    request_id = response.headers["x-proxy-request-id"]
    assert list(response.parse())

    def written() -> list[dict[str, Any]]:
        """All usage events so far. The last line may be half written."""
        lines = house.proxy.event_log.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines if '"event":"audit"' not in line]

    def of_request() -> list[dict[str, Any]]:
        return [event for event in written() if event["request_id"] == request_id]

    wait_until(lambda: any(event["outcome"] == "completed" for event in of_request()))
    (served,) = [event for event in of_request() if event["outcome"] == "completed"]
    lost = [event for event in of_request() if event["outcome"] == "superseded"]
    assert [event["provider"] for event in lost] == ["first"] * len(lost) != []
    assert (served["provider"], served["upstream_model"]) == ("second", "fragile-of-second")
    tried = [(each["provider"], each["reason"]) for each in served["attempts"]]
    assert tried == [("first", "stream_error")] * len(lost) + [("second", None)]
    assert [event["attempts"] for event in lost] == [[each] for each in served["attempts"][:-1]]
    # Of all events, those of attempts are no requests.
    ended = [event for event in written() if event["outcome"] != "superseded"]
    wait_until(lambda: requests_total(house.proxy) == len(ended))
    page = requests.get(f"{house.proxy.url}/metrics", timeout=30).text
    for series in (
        'fallbacks_total{model="fragile",reason="stream_error"}',
        'provider_requests_total{model="fragile-of-second",provider="second",status="success"}',
        'breaker_state{model="fragile-of-first",provider="first"}',
        'retry_budget_exhausted_total{provider="second"}',
        'key_healthy{key_id="',
    ):
        assert f"proxy_{series}" in page


def requests_total(proxy: ProxyServer) -> int:
    stats = requests.get(f"{proxy.url}/stats", timeout=30).json()
    return int(stats["requests"]["total"])


def test_azures_client_reaches_every_provider(house: House) -> None:
    house.fresh()
    with openai.AzureOpenAI(
        base_url=f"{house.proxy.url}/v1",
        api_key=house.token,
        api_version="2024-10-21",
        max_retries=0,
    ) as client:
        response = client.chat.completions.with_raw_response.create(
            model="second/any-model", messages=[{"role": "user", "content": "Hi"}]
        )
    assert response.headers["x-proxy-provider"] == "second"
    (received,) = house.second.received
    assert received.target == "/v1/chat/completions"
    assert house.token.encode() not in repr(received).encode()
