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
    access.admit(principal)
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
