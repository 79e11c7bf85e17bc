"""Which chores an installation has."""

from pathlib import Path

import pytest

from proxy.composition.chores import housekeeper
from proxy.store.database import Database
from tests.installation import settings


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"tokens"}),
        ({"USAGE_RETENTION_DAYS": "30"}, {"tokens", "usage"}),
        ({"AUDIT_RETENTION_DAYS": "30"}, {"tokens", "audit"}),
    ],
)
def test_what_is_kept_for_ever_has_no_chore(
    tmp_path: Path, changes: dict[str, str], expected: set[str]
) -> None:
    made = settings(tmp_path, **changes)
    keeper = housekeeper(made, Database.from_url(made.database_url))
    assert keeper.rows == dict.fromkeys(expected, 0)
