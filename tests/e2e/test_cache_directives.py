"""What a client asks of the cache, and what it gets: `Cache-Control`, conditions, expiry."""

import json
from collections.abc import Iterator

import pytest

from tests.support.fake_upstream import BEHAVIOURS, CHAT
from tests.support.raw_cache_house import CacheHouse, asking, whole
from tests.support.raw_requests import error_of
from tests.support.wait import wait_until

LISTED = {"object": "list", "data": [{"id": "gpt-4.1", "object": "model"}]}


def control(value: str) -> tuple[str, str]:
    return ("Cache-Control", value)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheHouse]:
    folder = tmp_path_factory.mktemp("cache")
    with CacheHouse(folder, CACHE_STALE_IF_ERROR="60") as made:
        yield made


@pytest.fixture(scope="module")
def token(house: CacheHouse) -> str:
    return house.token()


def expire(house: CacheHouse, token: str, body: bytes) -> None:
    """Store the response for a second, and wait until it has expired."""
    brief = control("public, max-age=1")
    house.ask(token, body, brief)
    house.hit(token, body, brief)
    only = control("only-if-cached")
    wait_until(lambda: house.ask(token, body, only).status == 504)


def test_no_store_neither_reads_nor_keeps(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(whole(CHAT))
    first = house.ask(token, asking(name), control("no-store"))
    assert first.values("X-Cache") == ["BYPASS"]
    assert first.values("Cache-Status") == ["openai-proxy; fwd=request; detail=no-store"]
    house.settle()
    assert house.ask(token, asking(name)).values("X-Cache") == ["MISS"]
    house.hit(token, asking(name))
    asked = len(house.upstream.asked_for(name))
    assert house.ask(token, asking(name), control("no-store")).values("X-Cache") == ["BYPASS"]
    assert len(house.upstream.asked_for(name)) == asked + 1


@pytest.mark.parametrize(
    "line", [control("no-cache"), control("max-age=0"), ("Pragma", "no-cache")]
)
def test_a_client_that_asks_anew_replaces_what_is_kept(
    house: CacheHouse, token: str, line: tuple[str, str]
) -> None:
    name = house.upstream.script(whole({**CHAT, "id": "old"}))
    house.ask(token, asking(name))
    assert b'"old"' in house.hit(token, asking(name)).body
    house.upstream.change(name, whole({**CHAT, "id": "new"}))
    anew = house.ask(token, asking(name), line)
    assert anew.values("X-Cache") == ["MISS"]
    assert anew.values("Cache-Status")[0].startswith("openai-proxy; fwd=request")
    house.settle()
    assert house.ask(token, asking(name)).body == anew.body


def test_max_age_bounds_what_is_taken(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(whole(CHAT))
    house.ask(token, asking(name))
    kept = house.hit(token, asking(name), control("max-age=300"))
    assert int(kept.values("Age")[0]) <= 300
    wait_until(lambda: int(house.ask(token, asking(name)).values("Age")[0]) >= 2)
    only = "only-if-cached, "
    assert house.ask(token, asking(name), control(only + "max-age=1")).status == 504
    assert house.ask(token, asking(name), control(only + "min-fresh=10000")).status == 504
    assert house.ask(token, asking(name), control(only + "max-age=300")).status == 200


def test_only_what_is_kept_before_any_quota(house: CacheHouse) -> None:
    project = house.project()
    made = house.proxy.mint(project, max_requests=1)
    token = made["token"]
    name = house.upstream.script(whole(CHAT))
    for _ in range(3):
        refused = house.ask(token, asking(name), control("only-if-cached"))
        assert (refused.status, error_of(refused)) == (504, "not_cached")
    assert not house.upstream.asked_for(name)
    # Nothing was charged: the one request is left.
    assert house.ask(token, asking(name)).values("X-Cache") == ["MISS"]
    shown = house.proxy.manage("GET", f"/tokens/{made['id']}").json()
    assert shown["request_count"] == 1
    event = house.event(refused)
    assert (event["outcome"], event["error_code"]) == ("rejected", "not_cached")


def test_opt_in_serves_those_that_ask(house: CacheHouse) -> None:
    token = house.token(cache="opt_in")
    name = house.upstream.script(whole(CHAT))
    asked = control("public, max-age=60")
    for lines in ((), (control("max-age=60"),), (control("public"),)):
        response = house.ask(token, asking(name), *lines)
        assert response.values("X-Cache") == ["BYPASS"]
        assert response.values("Cache-Status") == ["openai-proxy; fwd=bypass; detail=opt-in"]
    house.settle()
    assert house.ask(token, asking(name), asked).values("X-Cache") == ["MISS"]
    hit = house.hit(token, asking(name), asked)
    (status,) = hit.values("Cache-Status")
    assert 0 < int(status.partition("ttl=")[2].partition(";")[0]) <= 60
    assert house.ask(token, asking(name)).values("X-Cache") == ["BYPASS"]


def test_a_condition_that_holds_gets_a_304(house: CacheHouse, token: str) -> None:
    lines = (("ETag", '"a"'), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"))
    name = house.upstream.script(whole(LISTED, *lines, ("Vary", "Accept")))
    path = f"/v1/models?{name}"
    first = house.get(token, path)
    house.hit(token, method="GET", path=path)
    asked = len(house.upstream.asked_for(name))
    for condition in (
        ("If-None-Match", 'W/"a", "b"'),
        ("If-Modified-Since", "Thu, 22 Oct 2015 07:28:00 GMT"),
    ):
        same = house.get(token, path, condition)
        assert (same.status_line, same.body, same.clean) == ("HTTP/1.1 304 Not Modified", b"", True)
        assert same.values("ETag") == ['"a"']
        assert not same.values("Content-Type")
        assert same.values("X-Cache") == ["HIT"]
        event = house.event(same)
        assert (event["status_code"], event["cache"]) == (304, "hit")
    other = house.get(token, path, ("If-None-Match", '"b"'))
    assert (other.status, other.body) == (200, first.body)
    assert len(house.upstream.asked_for(name)) == asked


def test_a_304_of_the_upstream_is_relayed_and_poisons_nothing(
    house: CacheHouse, token: str
) -> None:
    name = house.upstream.script(
        lambda talk: talk.send(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n')
    )
    path = f"/v1/models?{name}"
    assert house.get(token, path, ("If-None-Match", '"x"')).status == 304
    assert house.upstream.asked_for(name)[-1].values("If-None-Match") == ['"x"']
    house.settle()
    house.upstream.change(name, whole(LISTED))
    assert house.get(token, path).status == 200
    assert house.hit(token, method="GET", path=path).status == 200


def test_what_has_expired_is_asked_for_again(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(whole(CHAT))
    expire(house, token, asking(name))
    assert house.ask(token, asking(name)).values("X-Cache") == ["MISS"]
    assert json.loads(house.hit(token, asking(name)).body) == CHAT


def test_the_upstream_limits_the_time(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(whole(CHAT, ("Cache-Control", "max-age=40")))
    house.ask(token, asking(name))
    (status,) = house.hit(token, asking(name)).values("Cache-Status")
    assert 0 < int(status.partition("ttl=")[2]) <= 40


@pytest.mark.parametrize(("status", "most"), [("400 Bad Request", 60), ("401 Unauthorized", 10)])
def test_errors_are_kept_for_a_moment(
    house: CacheHouse, token: str, status: str, most: int
) -> None:
    error = {"error": {"message": "no", "type": "invalid_request_error", "code": "bad"}}
    name = house.upstream.script(whole(error, status=status))
    house.ask(token, asking(name))
    hit = house.hit(token, asking(name))
    assert hit.status == int(status[:3])
    assert 0 <= int(hit.values("Cache-Status")[0].partition("ttl=")[2]) <= most


@pytest.mark.parametrize("failure", ["hang-up", "garbage", "500", "503"])
def test_what_has_expired_stands_in_for_an_upstream_that_fails(
    house: CacheHouse, token: str, failure: str
) -> None:
    name = house.upstream.script(whole(CHAT))
    body = asking(name)
    expire(house, token, body)
    fails = BEHAVIOURS.get(failure) or whole({"error": {}}, status=f"{failure} Failed")
    house.upstream.change(name, fails)
    stale = house.ask(token, body)
    assert (stale.status, json.loads(stale.body), stale.clean) == (200, CHAT, True)
    assert stale.values("X-Cache") == ["HIT"]
    assert stale.values("Cache-Status")[0].startswith("openai-proxy; hit; ttl=-")
    event = house.event(stale)
    assert (event["outcome"], event["cache"], event["status_code"]) == ("cached", "stale", 200)
    assert event["saved_prompt_tokens"] == 9
    assert event["metadata"]["total_tokens"] == 0
    # Who does not want it gets the failure.
    for asked in ("stale-if-error=0", "no-cache"):
        assert house.ask(token, body, control(asked)).status >= 500
    # An upstream that refuses the request has not failed.
    house.upstream.change(name, whole({"error": {}}, status="429 Too Many Requests"))
    assert house.ask(token, body).status == 429
    house.upstream.change(name, whole({**CHAT, "id": "mended"}))
    assert b"mended" in house.ask(token, body).body


def test_with_must_revalidate_nothing_expired_is_served(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(whole(CHAT, ("Cache-Control", "must-revalidate")))
    expire(house, token, asking(name))
    house.upstream.change(name, BEHAVIOURS["hang-up"])
    assert house.ask(token, asking(name)).status == 502


def test_with_flights_what_has_expired_stands_in_too(house: CacheHouse) -> None:
    token = house.token(coalesce="on")
    name = house.upstream.script(whole(CHAT))
    expire(house, token, asking(name))
    for failure in (BEHAVIOURS["hang-up"], whole({"error": {}}, status="500 Failed")):
        house.upstream.change(name, failure)
        stale = house.ask(token, asking(name))
        assert (stale.status, json.loads(stale.body)) == (200, CHAT)
        event = house.event(stale)
        assert (event["cache"], event["saved_completion_tokens"]) == ("stale", 12)


def test_an_upstream_that_is_gone(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gone")
    with CacheHouse(folder, CACHE_STALE_IF_ERROR="60") as house:
        token = house.token()
        # No connection is kept on which it could still be reached.
        name = house.upstream.script(whole(CHAT, ("Connection", "close")))
        expire(house, token, asking(name))
        house.upstream.stop()
        stale = house.ask(token, asking(name))
        assert (stale.status, stale.values("X-Cache")) == (200, ["HIT"])
        other = house.ask(token, asking(name, seed=1))
        assert other.status == 502
        assert other.values("X-Cache") == ["MISS"]
