"""Requests in flight that continue or are cut, after a change or an expiry."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gevent
import pytest

from proxy.auth import revalidation as review_module
from proxy.auth.principal import Principal, TokenRefused
from proxy.auth.revalidation import Revalidator
from proxy.core.errors import ClientError, StoreError
from proxy.gateway.inflight import InFlightRequests, TokenRevoked
from proxy.policy.accounts import Account
from proxy.policy.policy import Policy
from tests.support.relay_factories import PRINCIPAL
from tests.support.wait import wait_until

NOW = 1000.0


def principal(number: int = 1, project: str = "project", **changes: Any) -> Principal:
    accounts = (Account(kind="project", id=project), Account(kind="token", id=f"token-{number}"))
    made = replace(PRINCIPAL, accounts=accounts, token_hash=f"hash-{number}", read_at=1.0)
    return replace(made, **{"expires_at": NOW + 100, **changes})


class World:
    """The store: what it says of each token, and how often it was asked."""

    def __init__(self) -> None:
        self.clock = NOW
        self.store: dict[str, Any] = {}
        self.asked: list[str] = []
        self.together = self.most_together = 0
        self.live = InFlightRequests()
        self.ended: list[tuple[Principal, TokenRevoked]] = []
        self.review = Revalidator(self.live, self.revalidate, clock=lambda: self.clock)
        self.greenlets: list[gevent.Greenlet[..., None]] = []

    def revalidate(self, name: str) -> Principal:
        self.asked.append(name)
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        gevent.sleep(0.001)
        self.together -= 1
        result = self.store[name]
        now = review_module.time.monotonic()
        if isinstance(result, TokenRefused):
            raise TokenRefused(result.code, replace(result.principal, read_at=now))
        if isinstance(result, BaseException):
            raise result
        found: Principal = result
        return replace(found, read_at=now)

    def serve(self, owner: Principal, times: int = 1) -> None:
        """Requests of ``owner`` that last until they are cut."""
        self.store.setdefault(owner.token_hash, owner)
        for _ in range(times):
            self.greenlets.append(gevent.spawn(self._serve, owner))
        gevent.sleep(0)

    def _serve(self, owner: Principal) -> None:
        slot = self.live.register()
        self.live.set_owner(slot, owner)
        try:
            gevent.sleep(100)
        except TokenRevoked as error:
            self.ended.append((owner, error))
        finally:
            self.live.unregister(slot)

    def refuse(self, owner: Principal, code: str = "token_inactive", **policy: Any) -> None:
        known = replace(owner, policy=Policy(**policy))
        self.store[owner.token_hash] = TokenRefused(code, known)

    @property
    def codes(self) -> list[str | None]:
        return [error.code for _, error in self.ended]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(review_module, "_SWEEP_INTERVAL", 0.05)
    made = World()
    made.review.start()
    yield made
    made.review.close()
    gevent.killall(made.greenlets)


def test_all_requests_of_a_revoked_token_and_no_others(world: World) -> None:
    revoked, other = principal(1), principal(2)
    world.serve(revoked, 20)
    world.serve(other, 5)
    world.refuse(revoked)
    world.review.changed(["token-1"])
    wait_until(lambda: len(world.ended) == 20)
    assert {owner.token_hash for owner, _ in world.ended} == {"hash-1"}
    assert set(world.codes) == {"token_inactive"}
    assert set(world.asked) == {"hash-1"}
    assert len(world.asked) <= 3, "once for all of them"
    assert len(world.live) == 5


def test_a_change_that_takes_nothing_away(world: World) -> None:
    world.serve(principal(1), 3)
    world.review.changed(["project"])
    wait_until(lambda: len(world.asked) == 1)
    gevent.sleep(0.3)
    assert (world.asked, world.ended) == (["hash-1"], [])


def test_an_idle_worker_asks_nothing(world: World) -> None:
    world.serve(principal(1))
    world.review.changed(["another"])
    gevent.sleep(0.3)
    assert world.asked == []


def test_each_token_of_a_project_is_asked_for_a_few_at_a_time(world: World) -> None:
    for number in range(100):
        world.serve(principal(number))
        world.refuse(principal(number), "project_inactive")
    world.review.changed({"project"})
    wait_until(lambda: len(world.ended) == 100)
    assert set(world.codes) == {"project_inactive"}
    assert world.most_together <= 4


def test_what_expires_is_cut_without_any_change(world: World) -> None:
    world.serve(principal(1))
    world.serve(principal(2, expires_at=NOW + 500))
    world.refuse(principal(1), "token_expired")
    world.clock += 100
    wait_until(lambda: world.codes == ["token_expired"])
    assert set(world.asked) == {"hash-1"}


def test_an_expiry_that_was_put_off_counts(world: World) -> None:
    world.serve(principal(1))
    world.store["hash-1"] = principal(1, expires_at=NOW + 1000)
    world.clock += 200
    wait_until(lambda: world.asked == ["hash-1"])
    gevent.sleep(0.3)
    assert (world.asked, world.ended) == (["hash-1"], []), "asked once, not each time"
    world.refuse(principal(1), "token_expired")
    world.clock += 1000
    wait_until(lambda: world.codes == ["token_expired"])


def test_an_expiry_that_was_brought_forward_counts(world: World) -> None:
    world.serve(principal(1))
    world.store["hash-1"] = principal(1, expires_at=NOW + 10)
    world.review.changed({"token-1"})
    wait_until(lambda: len(world.asked) == 1)
    world.refuse(principal(1), "token_expired")
    world.clock += 11
    wait_until(lambda: world.codes == ["token_expired"])


@pytest.mark.parametrize("code", ["token_inactive", "token_expired", "project_inactive"])
def test_a_project_may_let_them_finish(world: World, code: str) -> None:
    world.serve(principal(1), 2)
    world.refuse(principal(1), code, cut_on_revoke=False)
    world.clock += 200
    world.review.changed({"token-1"})
    wait_until(lambda: len(world.asked) > 0)
    gevent.sleep(0.3)
    assert world.ended == []
    assert len(world.asked) <= 2, "not asked for again and again"
    # And may think better of it.
    world.refuse(principal(1), code)
    world.review.changed({"project"})
    wait_until(lambda: world.codes == [code, code])


def test_one_that_is_gone(world: World) -> None:
    world.serve(principal(1))
    world.store["hash-1"] = ClientError(code="token_not_found")
    world.review.changed({"project"})
    wait_until(lambda: world.codes == ["token_not_found"])


@pytest.mark.parametrize("error", [StoreError(), ZeroDivisionError()])
def test_while_the_store_is_away_nothing_is_cut_and_it_is_tried_again(
    world: World, error: Exception
) -> None:
    world.serve(principal(1), 3)
    world.store["hash-1"] = error
    world.review.changed({"token-1"})
    wait_until(lambda: len(world.asked) >= 3)
    assert world.ended == []
    world.refuse(principal(1))
    wait_until(lambda: len(world.ended) == 3)


def test_all_may_have_changed(world: World) -> None:
    for number in range(20):
        world.serve(principal(number), 2)
    world.refuse(principal(7))
    world.review.changed(None)
    wait_until(lambda: world.codes == ["token_inactive"] * 2)
    wait_until(lambda: len(set(world.asked)) == 20)
    gevent.sleep(0.2)
    assert len(world.asked) <= 22


def test_what_is_known_to_have_changed_goes_before_what_may_have(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_module, "_MAX_READS_PER_SECOND", 20)
    for number in range(60):
        world.serve(principal(number, project=f"project-{number}"))
    world.refuse(principal(59))
    world.review.changed(None)
    wait_until(lambda: len(world.asked) > 0)
    world.review.changed({"token-59"})
    wait_until(lambda: world.codes == ["token_inactive"])
    assert len(set(world.asked)) < 40, "the others have not all had their turn"


def test_more_changes_than_are_remembered_are_a_change_of_all(world: World) -> None:
    world.serve(principal(1))
    world.refuse(principal(1))
    for first in range(0, 20_000, 1000):
        world.review.changed(
            {f"token-{number}" for number in range(100_000 + first, 101_000 + first)}
        )
    assert len(world.review._changed) <= 10_000
    wait_until(lambda: world.codes == ["token_inactive"])


def test_one_who_was_let_in_by_what_was_true_before(world: World) -> None:
    """Its look-up was on its way when the change was learned, and it came in after that."""
    world.refuse(principal(1))
    world.review.changed({"token-1"})
    gevent.sleep(0.2)
    world.serve(principal(1))
    wait_until(lambda: world.codes == ["token_inactive"])
    fresh = principal(2, read_at=review_module.time.monotonic() + 1)
    world.review.changed({"token-2"})
    gevent.sleep(0.2)
    world.serve(fresh)
    gevent.sleep(0.2)
    assert "hash-2" not in world.asked


def test_changes_are_forgotten_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_module, "_REMEMBER_SECONDS", 0.1)
    world.review.changed({"token-1"})
    wait_until(lambda: not world.review._changed)


def test_a_defect_does_not_end_the_looking(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(review_module, "_SWEEP_INTERVAL", 0.01)

    def defect() -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(world.live, "owned", defect)
        wait_until(lambda: "the sweep of the requests in flight failed" in caplog.text)
    world.serve(owner := principal())
    world.store[owner.token_hash] = TokenRefused("token_inactive", owner)
    world.review.changed(["token-1"])
    wait_until(lambda: len(world.ended) == 1)


def test_after_the_end_nothing_is_checked(world: World) -> None:
    world.serve(principal(1))
    world.refuse(principal(1))
    world.review.close()
    world.review.close()
    world.review.changed({"token-1"})
    gevent.sleep(0.2)
    assert (world.asked, world.ended) == ([], [])
