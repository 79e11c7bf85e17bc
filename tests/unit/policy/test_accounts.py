"""Limits out of a document."""

from typing import Any

import pytest

from proxy.policy.accounts import Account, account_of

LIMITS = {"rate_limit_rpm": 1, "rate_limit_tpm": 2, "max_concurrent": 3}


def test_a_project_and_a_token() -> None:
    project = account_of("project", "p", {**LIMITS, "max_tokens_total": 4})
    assert project == Account(kind="project", id="p", **LIMITS)  # type: ignore[arg-type]
    token = account_of("token", "t", {**LIMITS, "max_tokens_total": 4}, 5)
    assert token == Account(  # type: ignore[misc]
        kind="token",
        id="t",
        max_requests=5,
        max_tokens_total=4,
        **LIMITS,  # type: ignore[arg-type]
    )


def test_nothing_is_no_limit() -> None:
    assert account_of("token", "t", {}) == Account(kind="token", id="t")


@pytest.mark.parametrize("document", [None, [], {"rate_limit_rpm": "x"}, {"rate_limit_rpm": True}])
def test_what_cannot_be_read_raises_nothing(document: Any) -> None:
    assert account_of("project", "p", document) == Account(kind="project", id="p")


@pytest.mark.parametrize(
    ("limits", "throttled"),
    [
        ({}, False),
        ({"max_requests": 3, "max_tokens_total": 3}, False),
        ({"rate_limit_rpm": 1}, True),
        ({"rate_limit_tpm": 1}, True),
        ({"max_concurrent": 1}, True),
    ],
)
def test_which_limits_have_to_be_asked_on_every_request(
    limits: dict[str, int], throttled: bool
) -> None:
    assert Account(kind="token", id="t", **limits).throttled is throttled  # type: ignore[arg-type]
