"""A lost race for a lease; more is in ``tests/contract/test_maintenance.py``."""

from typing import Any

import pytest

from proxy.core.errors import StoreError
from proxy.store.dialects import Conflict, Deadlock
from proxy.store.leases import TaskLeases


class Refusing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def run(self, work: Any) -> Any:
        raise self._error


@pytest.mark.parametrize("error", [Conflict(), Deadlock()])
def test_a_lost_race_is_no_lease(error: Exception) -> None:
    assert not TaskLeases(Refusing(error)).take("a", "me", 1)  # type: ignore[arg-type]


def test_an_unreachable_store_raises() -> None:
    with pytest.raises(StoreError):
        TaskLeases(Refusing(StoreError())).take("a", "me", 1)  # type: ignore[arg-type]
