"""``/manage/usage`` as its callers see it. The clock stands at 2030-01-01T00:00:00Z."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest

from proxy.usage.pricing import Price, PriceList
from proxy.web.api import usage as page
from tests.support.management_client import ABSENT, Management

LAST = datetime(2029, 12, 31, 23, tzinfo=UTC)
P2, T1, T2 = ABSENT[:-1] + "2", ABSENT[:-1] + "3", ABSENT[:-1] + "4"
PRICES = PriceList(
    "EUR",
    {
        "gpt-4": Price(Decimal("0.15"), Decimal("0.075"), Decimal("0.6")),
        "zero": Price(Decimal(0), Decimal(0), Decimal(0)),
    },
)
COUNTS = {
    "requests": 2,
    "errors": 1,
    "prompt_tokens": 100,
    "completion_tokens": 10,
    "cached_tokens": 40,
    "reasoning_tokens": 5,
    "estimated_prompt_tokens": 7,
    "estimated_completion_tokens": 8,
    "cache_hits": 1,
    "saved_prompt_tokens": 20,
    "saved_completion_tokens": 30,
}
#: 60 uncached, 40 cached and 10 output tokens.
COST = "0.000018"
#: 20 input and 30 output tokens.
SAVED = "0.000021"
NOTHING = dict.fromkeys(COUNTS, 0)


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url, PRICES)


def fill(api: Management, *rows: tuple[str, str, str, datetime]) -> None:
    """Adds :data:`COUNTS` to each (project, token, model, hour)."""
    counts = (2, 1, 100, 10, 40, 5, 7, 8, 1, 20, 30)
    entries = [(hour, project, token, model, *counts) for project, token, model, hour in rows]
    after = api.ledger.position("test")
    assert api.ledger.apply("test", after, (1, (after or (0, 0))[1] + 1), entries)


def get(api: Management, **query: str) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", "/usage?" + urlencode(query))
    return found


def test_nothing_yet(api: Management) -> None:
    assert get(api) == {
        "from": "2029-12-31T00:00:00Z",
        "to": "2030-01-01T00:00:00Z",
        "group_by": ["project"],
        "currency": "EUR",
        "rows": [],
        "totals": {**NOTHING, "cost": "0", "unpriced_tokens": 0, "saved_cost": "0"},
    }


def test_the_last_day_by_project(api: Management) -> None:
    project = api.project("Acme")
    day_ago = LAST - timedelta(hours=23)
    fill(
        api,
        (project["id"], T1, "gpt-4", LAST),
        (project["id"], T2, "gpt-4", day_ago),
        (project["id"], T1, "gpt-4", day_ago - timedelta(hours=1)),
    )
    twice = {name: 2 * count for name, count in COUNTS.items()}
    sums = {**twice, "cost": "0.000036", "unpriced_tokens": 0, "saved_cost": "0.000042"}
    found = get(api)
    assert found["rows"] == [{"project_id": project["id"], "project_name": "Acme", **sums}]
    assert found["totals"] == sums


def test_the_hour_that_runs_is_in_it(api: Management) -> None:
    api.clock += timedelta(minutes=1)
    fill(api, (ABSENT, T1, "gpt-4", LAST + timedelta(hours=1)))
    found = get(api)
    assert (found["from"], found["to"]) == ("2029-12-31T01:00:00Z", "2030-01-01T01:00:00Z")
    assert found["totals"]["requests"] == 2


@pytest.mark.parametrize(
    ("group_by", "rows"),
    [
        ("project", [{"project_id": ABSENT}, {"project_id": P2}]),
        ("model", [{"model": None}, {"model": "gpt-4"}, {"model": "o3"}]),
        ("hour", [{"hour": "2029-12-31T23:00:00Z"}]),
        ("token,project", [{"token_id": T1}, {"token_id": T2}]),
        (
            "hour, model",
            [{"hour": "2029-12-31T23:00:00Z", "model": name} for name in (None, "gpt-4", "o3")],
        ),
    ],
)
def test_groups(api: Management, group_by: str, rows: list[dict[str, Any]]) -> None:
    fill(
        api,
        (ABSENT, T1, "gpt-4", LAST),
        (ABSENT, T1, "o3", LAST),
        (P2, T2, "", LAST),
    )
    found = get(api, group_by=group_by)
    assert found["group_by"] == [name.strip() for name in group_by.split(",")]
    assert [{**row, **expected} for row, expected in zip(found["rows"], rows, strict=True)] == (
        found["rows"]
    )
    assert sum(row["requests"] for row in found["rows"]) == found["totals"]["requests"] == 6
    if "model" not in group_by:
        assert all("model" not in row for row in found["rows"])


def test_tokens_have_their_mask_and_name(api: Management) -> None:
    token = api.token(api.project()["id"], name="ci")
    fill(api, (token["project_id"], token["id"], "gpt-4", LAST))
    (row,) = get(api, group_by="token")["rows"]
    masked = api.call("GET", f"/tokens/{token['id']}")["token"]
    assert (row["token_id"], row["token"], row["token_name"]) == (token["id"], masked, "ci")
    assert token["token"] not in str(row)


@pytest.mark.parametrize(
    ("filters", "requests"),
    [
        ({}, 6),
        ({"project_id": P2}, 2),
        ({"project_id": P2.upper()}, 2),
        ({"token_id": T1}, 4),
        ({"model": "o3"}, 2),
        ({"model": ""}, 2),
        ({"model": "o3", "project_id": P2}, 0),
    ],
)
def test_filters(api: Management, filters: dict[str, str], requests: int) -> None:
    fill(api, (ABSENT, T1, "gpt-4", LAST), (ABSENT, T1, "o3", LAST), (P2, T2, "", LAST))
    assert get(api, **filters)["totals"]["requests"] == requests


class TestCost:
    def test_usage_without_a_price_is_reported(self, api: Management) -> None:
        fill(api, (ABSENT, T1, "gpt-4", LAST), (ABSENT, T1, "zero", LAST), (ABSENT, T1, "o3", LAST))
        found = get(api, group_by="model")
        assert {row["model"]: (row["cost"], row["unpriced_tokens"]) for row in found["rows"]} == {
            "zero": ("0", 0),
            "gpt-4": (COST, 0),
            "o3": (None, 110),
        }
        for sums in (found["totals"], get(api)["rows"][0], get(api)["totals"]):
            assert (sums["cost"], sums["unpriced_tokens"]) == (COST, 110)

    def test_what_used_nothing_costs_nothing(self, api: Management) -> None:
        assert api.ledger.apply("w", None, (1, 1), [(LAST, ABSENT, T1, "", 3, 3, *[0] * 9)])
        (row,) = get(api)["rows"]
        assert (row["cost"], row["unpriced_tokens"], row["saved_cost"]) == ("0", 0, "0")

    def test_what_was_saved_costs_what_it_would_have_cost(self, api: Management) -> None:
        fill(api, (ABSENT, T1, "gpt-4", LAST), (ABSENT, T1, "o3", LAST))
        rows = {row["model"]: row["saved_cost"] for row in get(api, group_by="model")["rows"]}
        assert rows == {"gpt-4": SAVED, "o3": None}
        totals = get(api)["totals"]
        assert (totals["saved_cost"], totals["cost"]) == (SAVED, COST)

    def test_without_a_price_list(self, sqlite_url: str) -> None:
        api = Management(sqlite_url)
        fill(api, (ABSENT, T1, "gpt-4", LAST))
        found = get(api)
        assert found["currency"] is None
        assert (found["totals"]["cost"], found["totals"]["unpriced_tokens"]) == (None, 110)
        assert found["totals"]["saved_cost"] is None

    def test_large_and_small_costs_are_plain_numbers(self, sqlite_url: str) -> None:
        million = Price(Decimal(1_000_000), Decimal(0), Decimal("0.000001"))
        api = Management(sqlite_url, PriceList("EUR", {"*": million}))
        fill(api, (ABSENT, T1, "gpt-4", LAST))
        assert get(api)["totals"]["cost"] == "60.00000000001"
        assert get(api, model="none")["totals"]["cost"] == "0"


@pytest.mark.parametrize(
    ("given", "start", "end"),
    [
        ({"from": "2029-12-01"}, "2029-12-01T00:00:00Z", "2030-01-01T00:00:00Z"),
        (
            {"from": "2029-05-01", "to": "2029-06-01"},
            "2029-05-01T00:00:00Z",
            "2029-06-01T00:00:00Z",
        ),
        ({"to": "2029-06-01"}, "2029-05-31T00:00:00Z", "2029-06-01T00:00:00Z"),
        (
            {"from": "2029-05-01T10:59:59.999Z", "to": "2029-05-01T12:00:00.001Z"},
            "2029-05-01T10:00:00Z",
            "2029-05-01T13:00:00Z",
        ),
        (
            {"from": "2029-05-01T10:00:00+05:30", "to": "2029-05-01 10:00:00-02:00"},
            "2029-05-01T04:00:00Z",
            "2029-05-01T12:00:00Z",
        ),
        (
            {"from": "2029-05-01T10:00:00 02:00", "to": "2029-05-02"},  # an unescaped +
            "2029-05-01T08:00:00Z",
            "2029-05-02T00:00:00Z",
        ),
        (
            {"from": "1970-01-01", "to": "8999-12-31"},
            "1970-01-01T00:00:00Z",
            "8999-12-31T00:00:00Z",
        ),
    ],
)
def test_ranges_are_whole_hours(
    api: Management, given: dict[str, str], start: str, end: str
) -> None:
    found = get(api, **given)
    assert (found["from"], found["to"]) == (start, end)


def test_to_is_not_included(api: Management) -> None:
    fill(api, (ABSENT, T1, "m", LAST), (ABSENT, T1, "m", LAST - timedelta(hours=1)))
    assert get(api, to="2029-12-31T23:00:00Z")["totals"]["requests"] == 2
    assert get(api, **{"from": "2029-12-31T23:00:00Z"})["totals"]["requests"] == 2


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": ""}, "from"),
        ({"from": "2029-12-31T10:00:00"}, "from"),
        ({"from": "2029-02-30"}, "from"),
        ({"from": "2029-W20-3"}, "from"),
        ({"from": "1969-12-31"}, "from"),
        ({"to": "0001-01-01"}, "to"),
        ({"to": "9999-12-31T23:59:59Z"}, "to"),
        ({"to": "1767225600"}, "to"),
        ({"from": "2029-12-02", "to": "2029-12-02"}, "to"),
        ({"from": "2029-12-02", "to": "2029-12-01"}, "to"),
        ({"from": "2030-01-02"}, "from"),
        ({"group_by": ""}, "group_by"),
        ({"group_by": "day"}, "group_by"),
        ({"group_by": "project,project"}, "group_by"),
        ({"group_by": "project,"}, "group_by"),
        ({"project_id": "x"}, "project_id"),
        ({"token_id": "x"}, "token_id"),
        ({"model": "x" * 256}, "model"),
        ({"model": "a\x00"}, "model"),
        ({"limit": "1"}, "limit"),
    ],
)
def test_refused_by_name(api: Management, query: dict[str, str], param: str) -> None:
    api.refused("GET", "/usage?" + urlencode(query), None, 400, param)


def test_more_rows_than_a_response_may_have(
    api: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_ROWS", 3)
    fill(api, *[(ABSENT, T1, f"m{number}", LAST) for number in range(3)])
    assert len(get(api, group_by="model")["rows"]) == 3
    fill(api, (ABSENT, T1, "m4", LAST))
    error = api.refused("GET", "/usage?group_by=model", None, 400, "group_by")
    assert "shorter range" in error["message"]
    assert len(get(api, group_by="model", model="m4")["rows"]) == 1
