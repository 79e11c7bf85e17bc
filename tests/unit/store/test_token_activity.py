"""Changes of activity and expiry; on databases they are in ``tests/contract``."""

from dataclasses import replace
from typing import Any

import pytest

from proxy.store.records import AccessToken
from proxy.store.tokens import activity
from tests.support.grants import START, TOKEN

NOW = 1_000_000


def token(active: bool, revoked: bool) -> AccessToken:
    return replace(TOKEN, is_active=active, revoked_at=START if revoked else None)


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


def test_which_tokens_have_expired() -> None:
    then = TOKEN.expires_at.timestamp()
    assert [RAN_OUT.ran_out(at) for at in (then - 1, then)] == [False, True]
    assert ALIVE.ran_out(then)
    assert not REVOKED.ran_out(then)
