"""Who gets what is kept: its own project, after every check, until the project's key changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import canaries
from tests.support.all_workers import all_workers
from tests.support.fake_upstream import CHAT, Conversation
from tests.support.raw_cache_house import CHAT_PATH, JSON_TYPE, CacheHouse, asking, whole
from tests.support.raw_client import RawClient
from tests.support.raw_requests import error_of
from tests.support.wait import wait_until


def who_asked(talk: Conversation) -> None:
    """A chat that names the upstream key with which it was asked for."""
    (key,) = talk.request.values("Authorization")
    whole({**CHAT, "id": key[-5:]})(talk)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheHouse]:
    folder = tmp_path_factory.mktemp("cache")
    with CacheHouse(folder, WEB_CONCURRENCY="2") as made:
        yield made


def stored(house: CacheHouse, token: str) -> bytes:
    """Return the body of a request whose response is kept for the token."""
    body = asking(house.upstream.script(who_asked))
    house.ask(token, body)
    house.hit(token, body)
    return body


def is_hit(house: CacheHouse, token: str, body: bytes) -> bool:
    return house.ask(token, body).values("X-Cache") == ["HIT"]


def shown(house: CacheHouse, made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = house.proxy.manage("GET", f"/tokens/{made['id']}").json()
    return found


def test_another_project_gets_nothing_of_it(house: CacheHouse) -> None:
    body = stored(house, house.token(api_key="sk-upstream-first"))
    response = house.ask(house.token(api_key="sk-upstream-other"), body)
    assert response.values("X-Cache") == ["MISS"]
    assert b'"other"' in response.body


def test_tokens_of_a_project_share_or_do_not(house: CacheHouse) -> None:
    shared, apart = house.project(), house.project(cache_scope="token")
    first, second = (str(house.proxy.mint(shared)["token"]) for _ in range(2))
    body = stored(house, first)
    assert is_hit(house, second, body)
    first, second = (str(house.proxy.mint(apart)["token"]) for _ in range(2))
    body = stored(house, first)
    assert not is_hit(house, second, body)
    only = ("Cache-Control", "only-if-cached")
    third = str(house.proxy.mint(apart)["token"])
    assert house.ask(third, body, only).status == 504


def test_a_token_may_have_less_of_it(house: CacheHouse) -> None:
    project = house.project()
    body = stored(house, str(house.proxy.mint(project)["token"]))
    off = str(house.proxy.mint(project, cache="off")["token"])
    response = house.ask(off, body)
    assert not response.values("X-Cache")
    assert not response.values("Cache-Status")
    assert house.event(response)["outcome"] == "completed"


def test_who_may_not_ask_may_not_read(house: CacheHouse) -> None:
    project = house.project()
    body = stored(house, str(house.proxy.mint(project)["token"]))
    narrow = str(house.proxy.mint(project, allowed_models=["gpt-4.1"])["token"])
    refused = house.ask(narrow, body)
    assert (refused.status, error_of(refused)) == (403, "model_not_allowed")
    revoked = house.proxy.mint(project)
    assert is_hit(house, revoked["token"], body)
    assert house.proxy.manage("DELETE", f"/tokens/{revoked['id']}").status_code == 204
    wait_until(
        lambda: all_workers(lambda: house.ask(revoked["token"], body).status == 401), seconds=30
    )


def test_a_closed_project_has_nothing_either(house: CacheHouse) -> None:
    project = house.project()
    token = str(house.proxy.mint(project)["token"])
    body = stored(house, token)
    house.change(project, is_active=False)
    wait_until(lambda: all_workers(lambda: house.ask(token, body).status == 403), seconds=30)


def test_hits_count_for_the_rate_and_not_for_the_quota(house: CacheHouse) -> None:
    project = house.project()
    body = stored(house, str(house.proxy.mint(project)["token"]))
    rated = house.proxy.mint(project, rate_limit_rpm=3)
    assert [house.ask(rated["token"], body).status for _ in range(4)] == [200, 200, 200, 429]
    made = house.proxy.mint(project)
    for _ in range(5):
        assert is_hit(house, made["token"], body)
    other = asking(house.upstream.script(who_asked))
    assert not is_hit(house, made["token"], other)
    wait_until(lambda: shown(house, made)["cache_hit_count"] == 5)
    wait_until(lambda: shown(house, made)["request_count"] == 1)


def test_a_spent_quota_refuses_hits(house: CacheHouse) -> None:
    project = house.project()
    body = stored(house, str(house.proxy.mint(project)["token"]))
    made = house.proxy.mint(project, max_requests=1)
    for _ in range(5):
        assert is_hit(house, made["token"], body)
    other = asking(house.upstream.script(who_asked))
    assert house.ask(made["token"], other).values("X-Cache") == ["MISS"]

    def is_refused() -> bool:
        response = house.ask(made["token"], body)
        return response.status == 429 and error_of(response) == "quota_exceeded"

    # A worker knows for a second that there was something left.
    wait_until(lambda: all_workers(is_refused))
    assert shown(house, made)["request_count"] == 1


def test_a_spent_budget_refuses_hits(house: CacheHouse) -> None:
    project = house.project()
    body = stored(house, str(house.proxy.mint(project)["token"]))
    made = house.proxy.mint(project, max_tokens_total=21)
    for _ in range(3):
        assert is_hit(house, made["token"], body)
    assert shown(house, made)["tokens_used"] == 0
    house.ask(made["token"], asking(house.upstream.script(who_asked)))
    wait_until(lambda: shown(house, made)["tokens_used"] == 21)
    wait_until(lambda: all_workers(lambda: house.ask(made["token"], body).status == 429))


def test_another_upstream_key_makes_all_of_it_void(house: CacheHouse) -> None:
    project = house.project(api_key="sk-upstream-first")
    token = str(house.proxy.mint(project)["token"])
    body = stored(house, token)
    assert b'"first"' in house.hit(token, body).body
    house.change(project, api_key="sk-upstream-other")
    wait_until(lambda: all_workers(lambda: b'"other"' in house.ask(token, body).body), seconds=30)
    assert b'"other"' in house.hit(token, body).body


def test_what_is_stored_in_one_worker_is_found_in_the_other(house: CacheHouse) -> None:
    token = house.token()
    name = house.upstream.script(who_asked)
    house.ask(token, asking(name))
    house.hit(token, asking(name))
    asked = len(house.upstream.asked_for(name))
    assert all_workers(lambda: is_hit(house, token, asking(name)))
    assert len(house.upstream.asked_for(name)) == asked


def test_in_pass_through_mode_each_key_has_its_own(tmp_path: Path) -> None:
    keys = ["sk-proj-first-canary-0123456789", "sk-proj-other-canary-0123456789"]
    canaries.register(*keys)
    with CacheHouse(tmp_path, AUTH_MODE="passthrough", CACHE="on") as house:
        body = asking(house.upstream.script(who_asked))
        first = house.ask(keys[0], body)
        assert first.values("X-Cache") == ["MISS"]
        assert house.hit(keys[0], body).body == first.body
        other = asking(house.upstream.script(who_asked))
        assert house.ask(keys[1], body).values("X-Cache") == ["MISS"]
        assert house.ask(keys[1], other).values("X-Cache") == ["MISS"]
        assert house.ask(keys[0], other).values("X-Cache") == ["MISS"]
        # Another scheme or spelling is another key.
        with RawClient(house.proxy.port) as client:
            client.request(
                "POST", CHAT_PATH, [("Authorization", f"Basic {keys[0]}"), JSON_TYPE], body
            )
            assert client.read_response("POST").values("X-Cache") == ["MISS"]
        with RawClient(house.proxy.port) as client:
            client.request("POST", CHAT_PATH, [JSON_TYPE], body)
            assert client.read_response("POST").values("X-Cache") != ["HIT"]
        held = b"".join(
            each.read_bytes() for each in (tmp_path / "data").rglob("*") if each.is_file()
        )
        for key in keys:
            assert key.encode() not in held
