"""The limits of a worker from its settings, with real tables and a Redis that is not there."""

from pathlib import Path

import pytest

from proxy.core.errors import ClientError, LimiterError
from proxy.wiring.ratelimit import RateLimiting
from tests.support.installation import settings
from tests.support.ports import free_port
from tests.support.relay_factories import PRINCIPAL
from tests.support.wait import wait_until


def limits_of(folder: Path, **changes: str) -> RateLimiting:
    rates = {"RATE_LIMIT": "3", "RATE_LIMIT_PER_TOKEN_RPM": "2"}
    return RateLimiting(settings(folder, **rates, **changes))


@pytest.fixture
def away() -> str:
    return f"redis://127.0.0.1:{free_port()}"


def ask(limits: RateLimiting, address: str = "192.0.2.1") -> None:
    passage = limits.throttle.check_client(address)
    try:
        limits.throttle.take(passage, PRINCIPAL)
    finally:
        passage.end()


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    limits = limits_of(tmp_path, REDIS_URL="redis://127.0.0.1:1")
    limits.start()
    assert limits.is_up
    limits.close(1)
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_there_before_the_first_request(tmp_path: Path) -> None:
    first, second = (limits_of(tmp_path) for _ in range(2))
    table = settings(tmp_path).data_dir / "limits" / "buckets-1"
    first.prepare()
    inode = table.stat().st_ino
    second.prepare()
    for _ in range(4):
        first.throttle.count_login("192.0.2.1")
    with pytest.raises(ClientError, match="your client address: 3 requests"):
        second.throttle.check_login("192.0.2.1")  # its first request
    assert table.stat().st_ino == inode
    for limits in (first, second):
        limits.close(1)


def test_two_workers_share_what_a_setting_says(tmp_path: Path) -> None:
    first, second = (limits_of(tmp_path) for _ in range(2))
    ask(first)
    ask(second)
    for limits in (first, second):
        with pytest.raises(ClientError, match="this access token: 2 requests"):
            ask(limits, "192.0.2.2")
        limits.close(1)


def test_redis_away_the_node_s_own_table_decides(tmp_path: Path, away: str) -> None:
    limits = limits_of(tmp_path, REDIS_URL=away)
    limits.start()
    ask(limits)
    assert not limits.is_up
    ask(limits)
    with pytest.raises(ClientError, match="this access token: 2 requests"):
        ask(limits)
    # That an address is counted twice on this node, before and with the rest, costs it nothing.
    with pytest.raises(ClientError, match="your client address: 3 requests"):
        ask(limits)
    limits.close(1)


def test_redis_away_nobody_passes_where_that_is_wanted(tmp_path: Path, away: str) -> None:
    limits = limits_of(tmp_path, REDIS_URL=away, RATE_LIMIT_ON_ERROR="closed")
    limits.start()
    for _ in range(2):
        with pytest.raises(LimiterError):
            ask(limits)
    wait_until(lambda: not limits.is_up)
    limits.close(1)
