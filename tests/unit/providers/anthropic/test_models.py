"""What Anthropic's list says of its models, and how its pages follow each other."""

from typing import Any

import pytest

from proxy.providers.anthropic.models import facts_by_name, model_facts, next_page
from proxy.providers.base import NO_FACTS, ModelFacts
from tests.support.mock_anthropic import model_info


def test_an_item_in_anthropics_own_shape() -> None:
    item = model_info("claude-a", 64_000, efforts=("low", "max"), thinking=("adaptive", "disabled"))
    assert model_facts(item) == ModelFacts(
        64_000, frozenset({"low", "max"}), frozenset({"adaptive", "disabled"})
    )


def test_a_model_without_effort_takes_no_level() -> None:
    assert model_facts(model_info("claude-a", 1, efforts=())).efforts == frozenset()
    # A level's own word counts for nothing where there is no effort at all.
    effort = {"supported": False, "high": {"supported": True}}
    assert model_facts({"capabilities": {"effort": effort}}).efforts == frozenset()


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"max_tokens": None, "capabilities": None},
        {"max_tokens": True},
        {"max_tokens": 0},
        {"max_tokens": 2**40},
        {"max_tokens": "9"},
        {"capabilities": []},
        {"capabilities": {"effort": None, "thinking": 3}},
        {"capabilities": {"effort": {"supported": "yes"}, "thinking": {"types": []}}},
    ],
)
def test_what_is_not_said_is_not_known(item: dict[str, Any]) -> None:
    assert model_facts(item) is NO_FACTS


def test_a_snapshot_has_aliases() -> None:
    old, new, own = ModelFacts(1), ModelFacts(2), ModelFacts(3)
    found = facts_by_name(
        [
            ("claude-a-20260101", new),
            ("claude-a-20250101", old),
            ("claude-b", own),
            ("claude-b-20260101", new),
            ("claude-c", NO_FACTS),
        ]
    )
    assert found == {
        "claude-a": new,
        "claude-a-latest": new,
        "claude-a-20260101": new,
        "claude-a-20250101": old,
        "claude-b": own,
        "claude-b-latest": new,
        "claude-b-20260101": new,
    }


def test_the_page_behind_one() -> None:
    assert next_page({"has_more": True, "last_id": "a/b&c"}) == (
        "/v1/models?limit=1000&after_id=a%2Fb%26c"
    )


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"has_more": False, "last_id": "a"},
        {"has_more": "yes", "last_id": "a"},
        {"has_more": True, "last_id": None},
        {"has_more": True, "last_id": ""},
        {"has_more": True, "last_id": "x" * 257},
    ],
)
def test_the_last_page(page: dict[str, Any]) -> None:
    assert next_page(page) is None
