"""Which known tokens a node takes for its own."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.auth.known import KnownGrants
from proxy.store.records import Grant
from proxy.wiring.known import FILE, known_grants
from tests.support.grants import PROJECT, TOKEN
from tests.support.installation import settings

GRANT = Grant(TOKEN, PROJECT, "sk-upstream")


def written(made: KnownGrants) -> None:
    made.seen(1, [])
    made.update("hash", GRANT, datetime.now(UTC).timestamp())
    made._flush()


@pytest.mark.parametrize(
    ("later", "known"),
    [
        ({}, True),
        ({"DATABASE_URL": "mysql://other:password@db/one"}, True),
        ({"DATABASE_URL": "mysql://user:pass@db/two"}, False),
        ({"DATABASE_URL": "postgresql://user:pass@db/one"}, False),
    ],
)
def test_tokens_of_another_database_are_none(
    tmp_path: Path, later: dict[str, str], known: bool
) -> None:
    first = {"DATABASE_URL": "mysql://user:pass@db/one"}
    written(known_grants(settings(tmp_path, **first)))
    found = known_grants(settings(tmp_path, **(first | later))).find("hash")
    assert (found is not None) is known


def test_no_file_is_made_before_it_is_used(tmp_path: Path) -> None:
    known_grants(settings(tmp_path)).close(1)
    assert not list(tmp_path.rglob(FILE))
    without = known_grants(settings(tmp_path, AUTH_STALE_GRACE="0"))
    without.start()
    written(without)
    assert not list(tmp_path.rglob(FILE))
