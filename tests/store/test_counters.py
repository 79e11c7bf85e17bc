"""What only counters do; the rest is in ``tests/contracts/test_store.py``."""

from datetime import datetime

import pytest

from proxy.store.counters import Counters
from proxy.store.database import Database


def test_times_without_a_zone_are_a_mistake_of_ours(sqlite_url: str) -> None:
    counters = Counters(Database.from_url(sqlite_url))
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(ValueError, match="zone"):
        counters.lease_permits("id", naive)
    with pytest.raises(ValueError, match="zone"):
        counters.add_counts([("id", 1, 0, naive)])
