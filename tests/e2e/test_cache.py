"""The response cache through the real server: what comes twice is paid once."""

from collections.abc import Iterator

import gevent
import pytest
import requests

from tests.support.cache_house import ASK, House
from tests.support.fake_upstream import Upstream
from tests.support.server import ProxyServer
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("cache")
    settings = {"REVOCATION_INTERVAL": "0.2", "CACHE_TTL": "5m"}
    proxy = ProxyServer(folder, session_upstream.url, **settings).start()
    yield House(proxy, session_upstream)
    assert proxy.stop() == 0, proxy.log_text()
    assert "Traceback" not in proxy.log_text(), proxy.log_text()


def test_a_question_is_paid_once(house: House) -> None:
    token = house.token()
    first = house.ask(token, ASK)
    assert first.headers["X-Cache"] == "MISS"
    assert first.headers["Cache-Status"] == "openai-proxy; fwd=uri-miss"
    paid = house.event(first)
    assert (paid["outcome"], paid.get("cache")) == ("completed", None)
    second = house.hit(token, ASK)
    assert second.content == first.content
    assert second.headers["Content-Type"] == first.headers["Content-Type"]
    assert second.headers["X-Request-Id"] == first.headers["X-Request-Id"]
    event = house.event(second)
    assert (event["outcome"], event["cache"], event["usage_source"]) == ("cached", "hit", "cached")
    assert (event["saved_prompt_tokens"], event["saved_completion_tokens"]) == (9, 12)
    assert event["metadata"]["total_tokens"] == 0


def test_identical_requests_share_one_response(house: House) -> None:
    token = house.token(coalesce="on")
    asked = len(house.upstream.received)
    asking = [gevent.spawn(house.ask, token, ASK) for _ in range(8)]
    gevent.joinall(asking, raise_error=True)
    responses = [each.value for each in asking]
    assert len({response.content for response in responses}) == 1
    paid = [each for each in map(house.event, responses) if "cache" not in each]
    assert len(paid) == len(house.upstream.received) - asked
    assert sum(event["metadata"]["total_tokens"] for event in paid) == 21 * len(paid)


def test_a_project_that_does_not_ask_gets_none_of_it(house: House) -> None:
    token = house.token(cache="off")
    for _ in range(2):
        response = house.ask(token, ASK)
        assert "X-Cache" not in response.headers
        assert house.event(response)["outcome"] == "completed"


def test_a_stored_response_of_several_chunks_is_replayed(house: House) -> None:
    token = house.token()
    ask = {**ASK, "stream": True}
    first = house.ask(token, ask)
    assert first.headers["X-Cache"] == "MISS"
    second = house.hit(token, ask)
    assert second.content == first.content
    assert second.content.endswith(b"data: [DONE]\n\n")
    event = house.event(second)
    assert (event["outcome"], event["stream"], event["cache"]) == ("cached", True, "hit")
    assert house.event(first)["outcome"] == "completed"


def test_a_hit_is_the_first_result_of_its_idempotency_key(house: House) -> None:
    token = house.token(idempotency="on")
    stored = house.hit(token, ASK)
    first = house.ask(token, ASK, Idempotency_Key="stored")
    assert (first.status_code, first.headers["X-Cache"]) == (200, "HIT")
    assert "Idempotent-Replayed" not in first.headers
    found: list[requests.Response] = []

    def is_the_result() -> bool:
        # Also for who does not want what the cache has.
        refresh = {"Idempotency_Key": "stored", "Cache_Control": "no-cache"}
        found[:] = [house.ask(token, ASK, **refresh)]
        return found[0].headers.get("Idempotent-Replayed") == "true"

    wait_until(is_the_result)
    assert found[0].content == stored.content
    assert found[0].headers["X-Cache"] == "HIT"
    assert found[0].headers["Cache-Status"] == "openai-proxy; hit; detail=idempotency-key"
    assert house.event(found[0])["cache"] == "replayed"
