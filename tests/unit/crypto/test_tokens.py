"""Credentials: what is minted passes the check, and masks show what they may."""

import re
import uuid

import pytest

from proxy.crypto import tokens


def test_minted_tokens_are_well_formed_and_differ() -> None:
    minted = {tokens.mint().secret for _ in range(1000)}
    assert len(minted) == 1000
    assert all(re.fullmatch(r"sk-[A-Za-z0-9_-]{22}", secret, re.ASCII) for secret in minted)
    assert all(tokens.is_well_formed(secret) for secret in minted)


def test_what_is_kept_of_a_minted_token_belongs_to_it() -> None:
    minted = tokens.mint()
    assert minted.token_hash == tokens.hash_token(minted.secret)
    assert minted.token_mask == tokens.mask_token(minted.secret)
    assert uuid.UUID(minted.token_id).version == 7
    assert minted.secret not in repr(minted)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "sk-",
        "sk-" + "a" * 21,
        "sk-" + "a" * 23,
        "sk-" + "a" * 21 + "é",
        "sk-" + "a" * 21 + "٣",
        "sk-" + "a" * 22 + "\n",
        "SK-" + "a" * 22,
        " sk-" + "a" * 22,
        "sk-proj-" + "a" * 40,
    ],
)
def test_everything_else_is_not(secret: str) -> None:
    assert not tokens.is_well_formed(secret)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("sk-" + "a" * 22, 1),
        ("Bearer sk-" + "a" * 22 + ", x", 1),
        ("sk-" + "a" * 22 + ";sk-" + "b" * 22, 2),
        ("sk-" + "a" * 23, 0),
        ("xsk-" + "a" * 22, 0),
        ("-sk-" + "a" * 22, 0),
        ("sk-proj-" + "a" * 22, 0),
    ],
)
def test_tokens_in_a_text_stand_alone(text: str, expected: int) -> None:
    assert len(tokens.find_all(text)) == expected


@pytest.mark.parametrize("scheme", ["Bearer ", "bEARER ", "Bearer   "])
def test_a_bearer(scheme: str) -> None:
    secret = "sk-" + "a" * 22
    found = tokens.match_bearer(f"{scheme}{secret} ")
    assert found is not None
    assert found[1] == secret


@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer", "Basic sk-{}", "sk-{}", "Bearersk-{}"])
def test_no_bearer(given: str) -> None:
    assert tokens.match_bearer(given.format("a" * 22)) is None


def test_the_hash_is_sha_256() -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert tokens.hash_token("abc") == known


def test_a_token_s_mask() -> None:
    assert tokens.mask_token("sk-JHjWabcdefghijklmnfQIZ") == "sk-JHjW...fQIZ"


def test_an_upstream_key_s_mask() -> None:
    assert tokens.mask_upstream_key("sk-proj-0123456789ab") == "sk-proj-...89ab"
    short = {tokens.mask_upstream_key("x" * length) for length in range(1, 20)}
    assert len(short) == 1
    assert "x" not in short.pop()


@pytest.mark.parametrize("key", ["a", "sk-0123456789", "sk-proj-" + "a" * 100])
def test_masks_look_masked_and_keys_do_not(key: str) -> None:
    assert tokens.looks_masked(tokens.mask_upstream_key(key))
    assert not tokens.looks_masked(key)


def test_a_jwt_does_not_look_masked() -> None:
    assert not tokens.looks_masked("eyJhbGciOiJkaXIifQ..c2VjcmV0.dGFn.ZW5k")


def test_token_ids_are_uuids_of_version_7_in_the_order_of_their_making() -> None:
    made = [tokens.new_token_id() for _ in range(50)]
    for token_id in made:
        parsed = uuid.UUID(token_id)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert str(parsed) == token_id
    # Without the random tail: two within the same 244 ns may be either way round.
    assert [token_id[:18] for token_id in made] == sorted(token_id[:18] for token_id in made)


def test_token_ids_carry_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 9562, appendix A.6: 2022-02-22T19:22:22.00Z is 017F22E2-79B0-7.
    monkeypatch.setattr("time.time_ns", lambda: 1645557742000 * 1_000_000)
    assert tokens.new_token_id().startswith("017f22e2-79b0-7000-")
    monkeypatch.setattr("time.time_ns", lambda: 1645557742000 * 1_000_000 + 999_999)
    assert tokens.new_token_id().startswith("017f22e2-79b0-7fff-")
