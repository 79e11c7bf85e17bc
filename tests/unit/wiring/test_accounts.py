"""What a change is told to: whoever has remembered, or is serving, what it was before."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.crypto import tokens
from proxy.events.queue import EventQueue
from proxy.gateway.inflight import InFlightRequests
from proxy.store.migrate import Migrator
from proxy.wiring.accounts import AccountServices
from tests.support.installation import settings


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[AccountServices]:
    made = AccountServices(settings(tmp_path), InFlightRequests(), EventQueue(10))
    Migrator(made.database).migrate()
    made.start()
    yield made
    made.flush(2)
    made.close()


def test_a_change_is_felt_at_once_where_it_was_made(registry: AccountServices) -> None:
    project = registry.projects.create("Acme", "sk-upstream-canary-0123456789", "mask")
    minted = tokens.mint()
    token = registry.tokens.create(
        minted.token_id,
        project.id,
        minted.token_hash,
        minted.token_mask,
        datetime.now(UTC) + timedelta(hours=1),
        max_requests=500,
    )
    principal = registry.authenticator.authenticate(f"Bearer {minted.secret}")
    registry.authenticator.take_quota(principal)
    assert registry.leases.outstanding
    assert len(registry.authenticator.cache) == 1
    registry.announce(project.id)
    assert len(registry.authenticator.cache) == 0, "tokens of a project that was changed"
    assert registry.authenticator.authenticate(f"Bearer {minted.secret}") is not principal
    registry.announce(token.id)
    assert registry.leases.outstanding == 0
    assert registry.tokens.get(token.id).request_count == 1
