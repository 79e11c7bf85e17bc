"""Conditions of filters; their results are in ``tests/contract/test_audit.py``."""

from proxy.store.audit import ACTIONS, conditions
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "governance.md"


def test_every_action_is_in_the_docs() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    first_cells = "".join(line.split("|")[1] for line in rows)
    assert [action for action in ACTIONS if f"`{action}`" not in first_cells] == []


def test_no_filters_are_no_condition() -> None:
    assert conditions({}) == ("", [])


def test_each_filter_has_its_parameters() -> None:
    where, params = conditions({"action": "a", "start": 5, "search": "x", "actor": "token"})
    assert where.count("?") == len(params)
    assert where.startswith(" WHERE action = ? AND created_at >= ? AND (")
    assert params[:2] == ["a", 5]
    assert params[-3:] == ["token", "token:%", "!"]


def test_wildcards_are_escaped() -> None:
    _, params = conditions({"search": "50%_!"})
    assert "%50!%!_!!%" in params
    _, params = conditions({"actor": "%"})
    assert params == ["%", "!%:%", "!"]


def test_text_that_is_not_ascii_matches_nothing_in_ascii_columns() -> None:
    assert conditions({"client_ip": "ä"}) == (" WHERE 1 = 0", [])
    assert "action" not in conditions({"search": "ä"})[0]
