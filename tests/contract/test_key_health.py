"""Two workers share the health of keys through the database, on every database."""

import itertools
from collections.abc import Iterator

import pytest

from proxy.routing.health import HealthBoard
from proxy.routing.key_pool import KeyPool
from proxy.store.key_health import KeyHealth
from proxy.store.routing_tables import RoutingTables
from tests.support.clock import Clock
from tests.support.routing_records import available_in
from tests.support.stored_records import Store


@pytest.fixture
def store(migrated_url: str) -> Iterator[Store]:
    store = Store(migrated_url)
    yield store
    store.database.close()


def test_cooldowns_counts_and_resets_reach_the_other_worker(store: Store) -> None:
    store.provider_key(store.provider())
    [secret] = RoutingTables(store.database, store.cipher).read().keys
    health = KeyHealth(store.database)
    boards, pools = [], []
    for now in (10.0, 5_000_000.0):
        board = HealthBoard(health, interval=1.0, clock=Clock(now), breaker=lambda *_: None)
        pool = KeyPool([secret], "weighted", Clock(now), lambda: 0.5, cooled=board.cooled)
        # Not `follow`: the test says when they exchange.
        board._pools = (pool,)
        boards.append(board)
        pools.append(pool)
    for board in boards:
        board.exchange()
    key_id = secret.record.id
    pools[0].record(key_id, 429, "gpt-☃")
    pools[0].cool(key_id, "gpt-☃", 600.0, 429)
    for board in boards:
        board.exchange()
    waits = [available_in(pool, "gpt-☃") or 0.0 for pool in pools]
    assert all(590.0 < wait <= 600.001 for wait in waits)
    assert available_in(pools[1], "gpt-5") == 0.0
    assert {(row.model, row.failure_count) for row in health.list(key_id)} == {
        ("gpt-☃", 0),
        ("", 1),
    }
    health.reset(key_id)
    for board, _ in itertools.product(boards, range(2)):
        board.exchange()
    assert [available_in(pool, "gpt-☃") for pool in pools] == [0.0, 0.0]
