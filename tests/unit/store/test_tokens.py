"""Tokens; more is in ``tests/contract/test_store.py``."""

from datetime import datetime

import pytest

from proxy.store.database import Database
from proxy.store.tokens import Tokens


def test_times_without_a_zone_are_refused(sqlite_url: str) -> None:
    tokens = Tokens(Database.from_url(sqlite_url))
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(ValueError, match="zone"):
        tokens.create("id", "project", "hash", "mask", naive)
