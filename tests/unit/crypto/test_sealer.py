"""Encryption of short-lived bytes (``proxy/crypto/sealer.py``)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import CipherError
from proxy.crypto.sealer import OVERHEAD, Sealer
from tests.support.clock import Clock

SECRET = bytes(range(32))
DAY = 86_400


@given(plain=st.binary(max_size=300), place=st.binary(max_size=50))
def test_what_is_sealed_opens_in_its_place(plain: bytes, place: bytes) -> None:
    sealed = Sealer(SECRET, "test").seal(plain, place)
    assert len(sealed) == len(plain) + OVERHEAD
    assert Sealer(SECRET, "test").open(sealed, place) == plain
    assert Sealer(SECRET, "test").open(memoryview(sealed), place) == plain


def test_it_is_never_the_same_twice() -> None:
    sealer = Sealer(SECRET, "test")
    assert len({sealer.seal(b"plain", b"here") for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("secret", "label", "place"),
    [(bytes(32), "test", b"here"), (SECRET, "other", b"here"), (SECRET, "test", b"there")],
)
def test_it_opens_nowhere_else(secret: bytes, label: str, place: bytes) -> None:
    sealed = Sealer(SECRET, "test").seal(b"plain", b"here")
    with pytest.raises(CipherError):
        Sealer(secret, label).open(sealed, place)


def test_every_change_and_every_cut_is_noticed() -> None:
    sealer = Sealer(SECRET, "test")
    sealed = sealer.seal(b"plain", b"here")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        for wrong in (bytes(changed), sealed[:at]):
            with pytest.raises(CipherError):
                sealer.open(wrong, b"here")


def test_each_day_has_a_key_of_its_own() -> None:
    clock = Clock(20_000 * DAY)
    sealer = Sealer(SECRET, "test", clock=clock)
    first = sealer.seal(b"plain", b"here")
    clock.now += DAY
    second = sealer.seal(b"plain", b"here")
    assert (first[:4], second[:4]) == (
        (20_000).to_bytes(4, "little"),
        (20_001).to_bytes(4, "little"),
    )
    assert sealer.open(first, b"here") == sealer.open(second, b"here") == b"plain"
    with pytest.raises(CipherError):
        sealer.open(second[:4] + first[4:], b"here")


def test_forged_days_take_no_memory() -> None:
    sealer = Sealer(SECRET, "test")
    sealed = sealer.seal(b"plain", b"here")
    for day in range(500):
        with pytest.raises(CipherError):
            sealer.open(day.to_bytes(4, "little") + sealed[4:], b"here")
    assert len(sealer._keys) <= 64
    assert sealer.open(sealed, b"here") == b"plain"


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="not 31"):
        Sealer(bytes(31), "test")
