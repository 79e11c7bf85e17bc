"""Which parameter wins: the client's, a default, an override."""

from typing import Any

import pytest

from proxy.providers.edits import Plan, plan

NOTHING = Plan(frozenset(), {}, {}, {})
RENAME = {"max_completion_tokens": "max_tokens"}


def planned(*sent: str, **changes: Any) -> Plan:
    return plan(sent, **changes)


def test_nothing_to_do() -> None:
    assert planned("model", "messages") == NOTHING
    assert planned("a", defaults={"a": 1}, drop={"b"}, rename={"c": "d"}) == NOTHING


@pytest.mark.parametrize(
    ("sent", "changes", "expected"),
    [
        (["model"], {"model": "m"}, Plan(frozenset(), {}, {"model": "m"}, {})),
        ([], {"model": "m"}, Plan(frozenset(), {}, {}, {"model": "m"})),
        (["a"], {"defaults": {"a": 1, "b": 2}}, Plan(frozenset(), {}, {}, {"b": 2})),
        (["a"], {"override": {"a": 1, "b": 2}}, Plan(frozenset(), {}, {"a": 1}, {"b": 2})),
        (["a", "b"], {"drop": {"a"}}, Plan(frozenset({"a"}), {}, {}, {})),
        (["a"], {"rename": {"a": "z"}}, Plan(frozenset(), {"a": "z"}, {}, {})),
        # Of both, the override.
        (["a"], {"drop": {"a"}, "override": {"a": 1}}, Plan(frozenset(), {}, {"a": 1}, {})),
        ([], {"defaults": {"a": 1}, "override": {"a": 2}}, Plan(frozenset(), {}, {}, {"a": 2})),
        ([], {"defaults": {"a": 1}, "drop": {"a"}}, NOTHING),
        # Case does not matter.
        (["A"], {"drop": {"a"}}, Plan(frozenset({"A"}), {}, {}, {})),
        (["A"], {"defaults": {"a": 1}}, NOTHING),
        (["A"], {"override": {"a": 1}}, Plan(frozenset(), {"A": "a"}, {"A": 1}, {})),
    ],
)
def test_table(sent: list[str], changes: dict[str, Any], expected: Plan) -> None:
    assert plan(sent, **changes) == expected


@pytest.mark.parametrize("sent", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("default", ["max_tokens", "max_completion_tokens"])
def test_no_default_bound_beside_the_clients(sent: str, default: str) -> None:
    assert planned(sent, defaults={default: 5}) == NOTHING


def test_of_two_default_bounds_the_first_counts() -> None:
    both = {"max_completion_tokens": 5, "max_tokens": 6}
    assert planned(defaults=both).added == {"max_completion_tokens": 5}


@pytest.mark.parametrize("sent", ["max_tokens", "max_completion_tokens"])
def test_a_forced_bound_is_the_only_one(sent: str) -> None:
    found = planned(sent, override={"max_tokens": 5}, defaults={"max_completion_tokens": 9})
    if sent == "max_tokens":
        assert found == Plan(frozenset(), {}, {"max_tokens": 5}, {})
    else:
        assert found == Plan(frozenset({sent}), {}, {}, {"max_tokens": 5})


def test_a_dropped_bound_makes_room_for_a_default() -> None:
    found = planned("max_tokens", drop={"max_tokens"}, defaults={"max_completion_tokens": 5})
    assert found == Plan(frozenset({"max_tokens"}), {}, {}, {"max_completion_tokens": 5})


@pytest.mark.parametrize("sent", [("max_tokens", *RENAME), (*RENAME, "max_tokens")])
def test_of_an_old_and_a_new_name_the_old_ones_value_counts(sent: tuple[str, ...]) -> None:
    assert planned(*sent, rename=RENAME) == Plan(frozenset({"max_tokens"}), RENAME, {}, {})


def test_defaults_and_overrides_are_renamed_too() -> None:
    assert planned(rename=RENAME, defaults={"max_completion_tokens": 5}).added == {"max_tokens": 5}
    assert planned(rename=RENAME, override={"max_completion_tokens": 5}).added == {"max_tokens": 5}
    found = planned(*RENAME, rename=RENAME, override={"max_tokens": 5})
    assert found == Plan(frozenset(), RENAME, {"max_completion_tokens": 5}, {})


def test_a_drop_holds_for_both_names() -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        assert planned(*RENAME, rename=RENAME, drop={name}).removed == frozenset(RENAME)
