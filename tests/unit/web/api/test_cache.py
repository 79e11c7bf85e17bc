"""``/manage/cache`` and ``DELETE /cache`` as their callers see them."""

import time
from typing import Any

import pytest

from proxy.cache.backends.base import PurgeIncomplete
from proxy.cache.backends.memory import MemoryStore
from proxy.cache.response_cache import ResponseCache
from proxy.store.cache_purges import PURGES_REVISION, Purge
from tests.support.cached_responses import cache_key, cached_response
from tests.support.management_client import ABSENT, Management

NOTHING = {
    "ttl": 300.0,
    "item_count": 0,
    "bytes": 0,
    "limit_bytes": 0,
    "hits": 0,
    "misses": 0,
    "evictions": {},
    "rejected": {},
    "errors": {},
    "largest": [],
    "most_hit": [],
    "shared": None,
}


@pytest.fixture
def api(sqlite_url: str) -> Management:
    api = Management(sqlite_url)
    api.cache = ResponseCache(MemoryStore(1_000_000), max_entry=100_000, jitter=lambda: 0.0)
    return api


def stored(api: Management, scope: str, name: str, **facts: Any) -> str:
    """Stores a response. Returns the name of its key."""
    assert api.cache is not None
    key = cache_key(name, scope)
    api.cache.put(key, cached_response(scope=scope, stored_at=time.time(), **facts))
    return key.name


def left(api: Management) -> int:
    found: int = api.call("GET", "/cache")["item_count"]
    return found


def purge(api: Management, **body: Any) -> int:
    found = api.call("POST", "/cache/purge", body)
    assert list(found) == ["deleted"]
    return int(found["deleted"])


def test_a_node_without_a_cache(api: Management) -> None:
    api.cache = None
    assert api.call("GET", "/cache") == NOTHING
    assert purge(api, prefix="/v1/") == 0
    assert api.announced == [PURGES_REVISION], "other nodes may have one"


def test_figures(api: Management) -> None:
    project = api.project()["id"]
    stored(api, project, "a", target="/v1/models?key=canary", method="GET", body=b"canary")
    name = stored(api, f"{project}:{ABSENT}", "b", body=b"x" * 1000)
    assert api.cache is not None
    assert api.cache.get(cache_key("b", f"{project}:{ABSENT}")) is not None
    found = api.call("GET", "/cache")
    assert (found["ttl"], found["item_count"], found["hits"]) == (300.0, 2, 1)
    assert 1000 < found["bytes"] < found["limit_bytes"] == 1_000_000
    largest, small = found["largest"]
    assert found["most_hit"] == [largest]
    assert largest.pop("stored_at") < largest.pop("expires_at")
    assert 1000 < largest.pop("bytes") < 3000
    assert largest == {
        "key": name,
        "project_id": project,
        "token_id": ABSENT,
        "method": "POST",
        "path": "/v1/chat/completions",
        "hits": 1,
    }
    assert (small["path"], small["token_id"]) == ("/v1/models", None)
    assert "canary" not in str(found)


def test_the_shared_store_has_its_own_figures(api: Management) -> None:
    tiers = MemoryStore(1000), MemoryStore(5000)
    api.cache = ResponseCache(*tiers, max_entry=100)
    found = api.call("GET", "/cache")
    assert (found["limit_bytes"], found["shared"]["limit_bytes"]) == (1000, 5000)


def test_all_of_a_project_is_a_new_epoch(api: Management) -> None:
    one, two = api.project("one")["id"], api.project("two")["id"]
    stored(api, one, "a")
    stored(api, f"{one}:{ABSENT}", "b")
    stored(api, two, "a")
    api.announced.clear()
    assert purge(api, project_id=one) == 2
    assert left(api) == 1
    assert api.projects.get(one).cache_epoch == 1
    assert api.projects.get(two).cache_epoch == 0
    assert api.announced == [one]
    assert api.purges.since(0) == []
    entry = api.told[-1]
    assert (entry.action, entry.project_id, entry.details) == ("cache.purge", one, {})


@pytest.mark.parametrize(
    ("body", "deleted"),
    [
        ({"method": "get"}, 2),
        ({"method": "DELETE"}, 0),
        ({"url": "/v1/models?limit=1"}, 1),
        ({"url": "/v1/models"}, 1),
        ({"prefix": "/v1/models"}, 2),
        ({"prefix": "/v1/models", "method": "POST"}, 0),
        ({"prefix": "/"}, 3),
        ({"url": None, "prefix": "/v1/chat"}, 1),
    ],
)
def test_some_of_all_projects(api: Management, body: dict[str, Any], deleted: int) -> None:
    project = api.project()["id"]
    stored(api, project, "a", method="GET", target="/v1/models")
    stored(api, project, "b", method="GET", target="/v1/models?limit=1")
    stored(api, ABSENT, "c")
    api.announced.clear()
    assert purge(api, **body) == deleted
    assert left(api) == 3 - deleted
    assert api.announced == [PURGES_REVISION]
    (logged,) = api.purges.since(0)
    place = body.get("url") or body.get("prefix")
    assert place in (None, logged.purge.target, logged.purge.prefix)
    assert api.projects.get(project).cache_epoch == 0


def test_some_of_one_project(api: Management) -> None:
    one, two = api.project("one")["id"], api.project("two")["id"]
    stored(api, one, "a")
    stored(api, two, "a")
    name = stored(api, one, "b")
    assert purge(api, project_id=one.upper(), key=name.upper()) == 1
    assert purge(api, project_id=one, prefix="/v1/chat") == 1
    assert left(api) == 1
    assert [each.purge for each in api.purges.since(0)] == [
        Purge(project_id=one, key=name),
        Purge(project_id=one, prefix="/v1/chat"),
    ]
    assert [entry.project_id for entry in api.told[-2:]] == [one, one]


def test_everything(api: Management) -> None:
    stored(api, api.project()["id"], "a")
    stored(api, ABSENT, "b")
    answer = api.client.delete("/cache")
    assert answer.get_json() == {"message": "The cache is empty.", "deleted": 2}
    assert left(api) == 0
    assert [each.purge for each in api.purges.since(0)] == [Purge()]
    assert api.announced[-1] == PURGES_REVISION
    assert (api.told[-1].action, api.told[-1].project_id) == ("cache.purge", None)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, None),
        ({"url": None}, 400, None),
        ({"urls": "/"}, 400, "urls"),
        ({"url": "/a", "prefix": "/"}, 400, "prefix"),
        ({"prefix": "/a", "key": "0" * 16}, 400, "key"),
        ({"url": "https://api.openai.com/v1/models"}, 400, "url"),
        ({"url": 7}, 400, "url"),
        ({"prefix": ""}, 400, "prefix"),
        ({"prefix": "/" + "x" * 8192}, 400, "prefix"),
        ({"key": "0123"}, 400, "key"),
        ({"key": "g" * 16}, 400, "key"),
        ({"method": "GET POST"}, 400, "method"),
        ({"method": ""}, 400, "method"),
        ({"project_id": ABSENT}, 404, None),
        ({"project_id": ABSENT, "url": "/v1/models"}, 404, None),
        ({"project_id": "x"}, 404, None),
        ({"project_id": 7}, 400, "project_id"),
    ],
)
def test_what_is_refused_purges_nothing(
    api: Management, body: dict[str, Any], status: int, param: str | None
) -> None:
    stored(api, ABSENT, "a")
    api.refused("POST", "/cache/purge", body, status, param)
    assert left(api) == 1
    assert (api.purges.since(0), api.announced) == ([], [])


def test_a_store_that_does_not_respond_is_said_and_the_others_are_purged(
    api: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise PurgeIncomplete("The shared store does not respond.")

    monkeypatch.setattr(api.cache, "purge", fail)
    error = api.refused("POST", "/cache/purge", {"prefix": "/"}, 503)
    assert "does not respond" in error["message"]
    assert len(api.purges.since(0)) == 1
    assert api.announced == [PURGES_REVISION]


def test_parameters_are_refused_by_name(api: Management) -> None:
    api.refused("GET", "/cache?limit=1", None, 400, "limit")
    stored(api, ABSENT, "a")
    assert api.client.delete("/cache?url=/v1/models").status_code == 400
    assert left(api) == 1
