"""Records are facts: frozen, and a grant does not print its key."""

import dataclasses
from datetime import UTC, datetime

import pytest

from proxy.store.records import AccessToken, Grant, Project

WHEN = datetime(2026, 1, 2, tzinfo=UTC)
PROJECT = Project("p", "Acme", None, {}, {}, "mask", True, None, WHEN, WHEN)
TOKEN = AccessToken("t", "mask", None, "p", WHEN, True, None, None, {}, 0, 0, None, WHEN, WHEN)


def test_a_grant_does_not_print_its_key() -> None:
    assert "sk-real" not in repr(Grant(TOKEN, PROJECT, "sk-real"))


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROJECT.name = "x"  # type: ignore[misc]
