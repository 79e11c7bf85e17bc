"""Clients with upstream keys of their own: all are admitted, and only a hash of the key is kept."""

from pathlib import Path

import pytest

from proxy.auth.passthrough import PassThrough

KEY = "sk-proj-0123456789abcdefABCDEF"


@pytest.fixture
def access(tmp_path: Path) -> PassThrough:
    made = PassThrough(tmp_path)
    made.start()
    return made


@pytest.mark.parametrize("given", [None, "", "Bearer", f"Bearer {KEY}", "Basic dTpw", "ÿ"])
def test_every_client_passes_without_an_account(access: PassThrough, given: str | None) -> None:
    principal = access.authenticate(given)
    access.take_quota(principal)
    access.settle(principal, 7)
    assert (principal.token_id, principal.project_id, principal.upstream_key) == (None, None, None)
    assert principal.accounts == ()
    assert not principal.concerned_by({"x"})
    assert bool(principal.token_mask) == bool(given)


def test_nothing_of_the_key_is_in_it(access: PassThrough) -> None:
    shown = repr(access.authenticate(f"Bearer {KEY}"))
    assert not [part for part in ("sk-", KEY[8:16], KEY[-4:]) if part in shown]


def test_a_key_has_one_name_however_it_is_sent(access: PassThrough) -> None:
    names = {access.authenticate(f"{scheme} {KEY}").token_mask for scheme in ("Bearer", "bearer")}
    assert len(names) == 1
    assert access.authenticate("Bearer another").token_mask not in names


def test_nothing_is_written_before_the_start(tmp_path: Path) -> None:
    assert PassThrough(tmp_path).authenticate(f"Bearer {KEY}").token_mask is None
    assert list(tmp_path.iterdir()) == []


class TestCaching:
    @pytest.fixture
    def caching(self, tmp_path: Path) -> PassThrough:
        made = PassThrough(tmp_path, caches=True)
        made.start()
        return made

    def test_off_until_it_is_asked_for(self, access: PassThrough) -> None:
        assert access.authenticate(f"Bearer {KEY}").caching is None

    def test_each_key_has_a_scope_of_its_own(self, caching: PassThrough) -> None:
        found = [caching.authenticate(given).caching for given in (KEY, f"Bearer {KEY}", "other")]
        assert [one and (one.mode, one.project_id, one.epoch) for one in found] == [
            ("on", "", 0)
        ] * 3
        scopes = [one.scope for one in found if one]
        assert scopes[0] == scopes[1] != scopes[2]

    def test_the_scope_shows_nothing_and_is_not_the_name_in_events(
        self, caching: PassThrough
    ) -> None:
        principal = caching.authenticate(f"Bearer {KEY}")
        assert principal.caching is not None
        assert principal.token_mask is not None
        scope = principal.caching.scope
        assert len(scope) == 64
        assert principal.token_mask.removeprefix("key-") not in scope
        assert not [part for part in ("sk-", KEY[8:16], KEY[-4:]) if part in scope]

    @pytest.mark.parametrize("given", [None, ""])
    def test_nothing_is_stored_for_a_client_without_a_key(
        self, caching: PassThrough, given: str | None
    ) -> None:
        assert caching.authenticate(given).caching is None

    def test_nor_before_the_start(self, tmp_path: Path) -> None:
        assert PassThrough(tmp_path, caches=True).authenticate(f"Bearer {KEY}").caching is None

    def test_the_workers_of_a_node_agree(self, caching: PassThrough, tmp_path: Path) -> None:
        other = PassThrough(tmp_path, caches=True)
        other.start()
        mine, theirs = (one.authenticate(KEY).caching for one in (caching, other))
        assert mine == theirs
