"""What a change of activity or of time does to a token; on databases: tests/contracts."""

from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.store.expiry import activity
from proxy.store.records import AccessToken

NOW = 1_000_000
SOME_TIME = datetime(2020, 1, 1, tzinfo=UTC)


def token(active: bool, revoked: bool) -> AccessToken:
    return AccessToken(
        id="t",
        token="sk-aaaa...aaaa",
        name=None,
        project_id="p",
        expires_at=SOME_TIME,
        is_active=active,
        revoked_at=SOME_TIME if revoked else None,
        max_requests=None,
        policy={},
        request_count=0,
        cache_hit_count=0,
        last_used_at=None,
        created_at=SOME_TIME,
        updated_at=SOME_TIME,
    )


ALIVE, RAN_OUT, REVOKED = token(True, False), token(False, False), token(False, True)
REVIVED = {"is_active": 1, "revoked_at": None}
ENDED = {"is_active": 0, "revoked_at": NOW}


@pytest.mark.parametrize(
    ("before", "active", "expires", "expected"),
    [
        (ALIVE, None, None, {}),
        (ALIVE, None, NOW - 1, {}),
        (ALIVE, True, None, {}),
        (ALIVE, False, None, ENDED),
        (RAN_OUT, None, None, {}),
        (RAN_OUT, None, NOW, {}),
        (RAN_OUT, None, NOW + 1, {"is_active": 1}),
        (RAN_OUT, True, None, REVIVED),
        (RAN_OUT, False, None, ENDED),
        (RAN_OUT, False, NOW + 1, ENDED),
        (REVOKED, None, NOW + 1, {}),
        (REVOKED, True, None, REVIVED),
        (REVOKED, False, None, {}),
    ],
)
def test_activity(before: AccessToken, active: Any, expires: Any, expected: Any) -> None:
    assert activity(before, active, expires, NOW) == expected


def test_what_has_run_out() -> None:
    then = SOME_TIME.timestamp()
    assert [RAN_OUT.ran_out(at) for at in (then - 1, then)] == [False, True]
    assert ALIVE.ran_out(then)
    assert not REVOKED.ran_out(then)
