"""proxy/cli/policy_options.py: every field has its option, and what is written is its value."""

from typing import Any

import pytest

from proxy.cli.policy_options import SPELLINGS
from proxy.policy.fields import FIELDS


def test_every_field_has_a_spelling_of_its_own() -> None:
    assert set(SPELLINGS) == set(FIELDS)
    assert len({spelling.option for spelling in SPELLINGS.values()}) == len(FIELDS)


def test_the_values_are_those_that_the_field_accepts() -> None:
    words = {
        name: one.metavar for name, one in SPELLINGS.items() if one.metavar and "|" in one.metavar
    }
    assert len(words) == 8
    for name, offered in words.items():
        for word in offered.split("|"):
            assert FIELDS[name].read(name, word) == word


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("allowed_models", ("gpt-4o*", "o3"), ["gpt-4o*", "o3"]),
        ("allowed_params", ("n=1", "n=2", "tools="), {"n": ["1", "2"], "tools": []}),
        ("allowed_params", ("stop=a=b",), {"stop": ["a=b"]}),
        ("required_headers", ("X-Team", "X-A=b*", "X-A=c"), {"X-Team": ["*"], "X-A": ["b*", "c"]}),
        ("forwarded_headers", ("X-*",), ["X-*"]),
        ("forwarded_headers", ("",), []),
        ("rate_limit_rpm", 5, 5),
        ("can_mint", False, False),
        ("on_revoke", "cut", "cut"),
        ("base_url", "https://eu.test", "https://eu.test"),
        ("providers", ("*",), ["*"]),
        ("max_retries", 0, 0),
    ],
)
def test_what_is_written(name: str, given: Any, value: Any) -> None:
    read = SPELLINGS[name].read(given)
    assert read == value
    assert FIELDS[name].read(name, read) == value


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("allowed_models", ("",)),
        ("allowed_models", ("o3", "")),
        ("allowed_ips", ("",)),
        ("providers", ("",)),
        ("forwarded_headers", ("", "X-A")),
        ("required_headers", ("X-Team=",)),
        ("allowed_params", ("tools",)),
    ],
)
def test_an_empty_value_is_refused(name: str, given: Any) -> None:
    """A variable that is not set must not become a rule that says something else."""
    with pytest.raises(ValueError, match=r"empty|expected NAME"):
        SPELLINGS[name].read(given)


@pytest.mark.parametrize("name", [name for name, one in SPELLINGS.items() if one.metavar == "N"])
def test_nought_is_no_limit_and_no_limit_is_not_nought(name: str) -> None:
    assert "1 or more" in SPELLINGS[name].help
    assert SPELLINGS[name].read(1) == 1
    for given in (0, -1):
        with pytest.raises(ValueError, match="less than 1; without the option there is no limit"):
            SPELLINGS[name].read(given)
