"""proxy/cli/usage.py: the call it makes, and its three ways to print."""

import csv
import json
from typing import Any

import pytest
import responses
from responses.matchers import query_param_matcher

from tests.support.cli_runner import BASE, Run

URL = f"{BASE}/manage/usage"
COUNTS = {
    "requests": 3,
    "errors": 1,
    "prompt_tokens": 40,
    "completion_tokens": 50,
    "cached_tokens": 6,
    "reasoning_tokens": 7,
}
NOTHING_SAVED = {"cache_hits": 0, "saved_prompt_tokens": 0, "saved_completion_tokens": 0}
ROW = {
    "project_id": "0b3a7c5e-0000-4000-8000-000000000001",
    "project_name": 'Acme, "Inc"',
    "model": None,
    **COUNTS,
    **NOTHING_SAVED,
    "cost": "0.00012",
    "unpriced_tokens": 0,
    "saved_cost": "0",
}
UNKNOWN = ROW | {"project_name": None, "model": "gpt-4", "cost": None, "unpriced_tokens": 90}
REPORT: dict[str, Any] = {
    "from": "2026-05-20T00:00:00Z",
    "to": "2026-05-21T00:00:00Z",
    "group_by": ["project", "model"],
    "currency": "EUR",
    "rows": [ROW, UNKNOWN],
    "totals": {
        **COUNTS,
        **NOTHING_SAVED,
        "requests": 6,
        "cost": "0.00012",
        "unpriced_tokens": 90,
        "saved_cost": "0",
    },
}


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        ([], {}),
        (
            ["--from", "2026-05-01", "--to", "2026-06-01"],
            {"from": "2026-05-01", "to": "2026-06-01"},
        ),
        (["--group-by", "hour,model"], {"group_by": "hour,model"}),
        (["--model", "", "--project-id", "p"], {"model": "", "project_id": "p"}),
        (["--token-id", "t"], {"token_id": "t"}),
    ],
)
def test_asks(
    run: Run, api: responses.RequestsMock, arguments: list[str], query: dict[str, str]
) -> None:
    api.get(URL, json=REPORT, match=[query_param_matcher(query)])
    assert json.loads(run("usage", *arguments, "--json").stdout) == REPORT


def test_a_table_with_its_total(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=REPORT)
    result = run("usage")
    assert result.exit_code == 0
    head, known, unknown, total = result.stdout.splitlines()
    assert head.split() == [
        *["Project", "Model", "Requests", "Errors", "Prompt", "Cached", "Completion", "Reasoning"],
        *["Cost", "(EUR)"],
    ]
    assert " ".join(known.split()) == 'Acme, "Inc" - 3 1 40 6 50 7 0.00012'
    assert " ".join(unknown.split()) == f"{ROW['project_id']} gpt-4 3 1 40 6 50 7 -"
    assert " ".join(total.split()) == "TOTAL 6 1 40 6 50 7 0.00012"
    assert "2026-05-20T00:00:00Z to 2026-05-21T00:00:00Z" in result.stderr
    assert "90 tokens have no price" in result.stderr
    assert "estimated" not in result.stderr


def test_estimates_are_a_line_of_their_own(run: Run, api: responses.RequestsMock) -> None:
    totals = {
        **REPORT["totals"],
        "estimated_prompt_tokens": 30,
        "estimated_completion_tokens": 12,
    }
    api.get(URL, json={**REPORT, "totals": totals})
    assert "42 tokens were estimated" in run("usage").stderr


def test_what_the_cache_saved_is_shown_where_it_served(
    run: Run, api: responses.RequestsMock
) -> None:
    saved = {
        "cache_hits": 2,
        "saved_prompt_tokens": 30,
        "saved_completion_tokens": 31,
        "saved_cost": "0.5",
    }
    report = {**REPORT, "rows": [ROW | saved], "totals": REPORT["totals"] | saved}
    api.get(URL, json=report)
    head, row, total = run("usage").stdout.splitlines()
    assert head.endswith("Cost (EUR)  Cache hits  Saved prompt  Saved completion  Saved (EUR)")
    assert row.split()[-5:] == ["0.00012", "2", "30", "31", "0.5"]
    assert total.split()[-5:] == ["0.00012", "2", "30", "31", "0.5"]
    api.get(URL, json=report | {"currency": None})
    assert run("usage").stdout.splitlines()[0].endswith("Saved prompt  Saved completion")


def test_without_prices_there_are_no_costs(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=REPORT | {"currency": None, "rows": []})
    result = run("usage")
    assert "Cost" not in result.stdout
    assert "price" not in result.stderr


def test_csv(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=REPORT)
    known, unknown = csv.DictReader(run("usage", "--csv").stdout.splitlines())
    assert known == {name: "" if value is None else str(value) for name, value in ROW.items()}
    assert (unknown["cost"], unknown["unpriced_tokens"]) == ("", "90")


def test_csv_of_nothing_has_its_head(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=REPORT | {"rows": [], "group_by": ["token", "hour"]})
    (head,) = run("usage", "--csv").stdout.splitlines()
    assert head.startswith("token_id,token,token_name,hour,requests,errors,")


def test_one_way_to_print(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGEMENT_TOKEN", "x" * 16)
    assert run("usage", "--csv", "--json").exit_code == 2


def test_refused(run: Run, api: responses.RequestsMock) -> None:
    error = {"error": {"message": "`from` must be a date.", "code": "invalid_request"}}
    api.get(URL, json=error, status=400)
    result = run("usage", "--from", "x")
    assert result.exit_code == 1
    assert "`from` must be a date." in result.stderr
