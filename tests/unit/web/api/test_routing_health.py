"""``/manage/health`` as its callers see it."""

import pytest

from proxy.core.errors import StoreError
from proxy.providers.status import ProviderStatus
from proxy.store.key_health import KeyReport
from tests.support.management_client import Management


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


def test_without_providers(api: Management) -> None:
    fine = {"status": "ok", "database": "ok", "redis": "ok", "providers": []}
    assert api.call("GET", "/health") == fine
    api.redis_state = "not used"
    assert api.call("GET", "/health")["status"] == "ok"
    api.refused("GET", "/health?x=1", None, 400, "x")


def test_shows_breakers_and_keys(api: Management) -> None:
    first, second = api.made_provider("a"), api.made_provider("b")
    api.made_key(first["id"], "k1")
    key = api.made_key(first["id"], "k2")
    api.key_health.write([KeyReport(key["id"], "m", cooling=60, status=429, failure_count=1)])
    found = api.call("GET", "/health")
    assert found["status"] == "ok", "a key is left"
    a, b = found["providers"]
    assert list(a) == [
        "id",
        "name",
        "provider_type",
        "is_active",
        "source",
        "breaker",
        "error_ratio",
        "last_error",
        "models_error",
        "keys",
    ]
    assert [(one["name"], one["health"], one["last_status"]) for one in a["keys"]] == [
        ("k1", "healthy", None),
        ("k2", "cooling", 429),
    ]
    assert (a["breaker"], b["name"], b["keys"]) == ("closed", "b", [])
    api.breakers[second["id"]] = ProviderStatus("open", 0.75, "HTTP 503")
    found = api.call("GET", "/health")
    b = found["providers"][1]
    assert (b["breaker"], b["error_ratio"], b["last_error"]) == ("open", 0.75, "HTTP 503")
    assert found["status"] == "degraded"
    api.call("PATCH", f"/providers/{second['id']}", {"is_active": False})
    assert api.call("GET", "/health")["status"] == "ok", "one that is off hurts nobody"


def test_no_key_left_is_an_illness(api: Management) -> None:
    provider = api.made_provider()
    key = api.made_key(provider["id"])
    api.key_health.write([KeyReport(key["id"], "", cooling=60, status=401, failure_count=1)])
    assert api.call("GET", "/health")["status"] == "degraded"
    api.made_key(provider["id"], "off", is_active=False)
    assert api.call("GET", "/health")["status"] == "degraded"
    api.made_key(provider["id"], "spare")
    assert api.call("GET", "/health")["status"] == "ok"


@pytest.mark.parametrize("part", ["database", "redis"])
def test_what_is_away(api: Management, part: str) -> None:
    setattr(api, f"{part}_state", "unavailable")
    found = api.call("GET", "/health")
    assert (found["status"], found[part]) == ("degraded", "unavailable")


def test_without_the_database_the_rest_is_reported(
    api: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise StoreError

    monkeypatch.setattr(api.catalog, "keys", away)
    assert api.call("GET", "/health") == {
        "status": "degraded",
        "database": "unavailable",
        "redis": "ok",
        "providers": None,
    }
