"""How many places one holder may have under pressure (`proxy/runtime/shares.py`)."""

import math

import pytest

from proxy.runtime.shares import Shares, fraction, is_local, share_taken


def test_a_share_is_of_all_places() -> None:
    shares = Shares(100, 0.5)
    assert (shares.pressure, shares.largest) == (80, 50)
    shares.held["a"] = 49
    assert not shares.full("a")
    shares.held["a"] += 1
    assert shares.full("a")
    assert not shares.full("b")
    assert "b" not in shares.held, "looking at it makes no holder of it"


def test_every_holder_may_have_one() -> None:
    assert Shares(3, 0.1).largest == 1


def test_all_of_them_is_no_share() -> None:
    shares = Shares(100, 1.0)
    shares.held["a"] = 1000
    assert not shares.full("a")
    assert shares.pressure == math.inf


def test_what_is_refused_says_why() -> None:
    assert "this project has its share" in share_taken("project")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", ""])
def test_local(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "1.127.0.0", "::ffff:10.0.0.1", "::12", "fe80::1"])
def test_not_local(address: str) -> None:
    assert not is_local(address)


def test_fractions() -> None:
    assert [fraction(value) for value in ("0.5", "1", ".25", "1e-3")] == [0.5, 1, 0.25, 0.001]
    for value in ("0", "-1", "1.01", "nan", "inf", "half", "", "50%"):
        with pytest.raises(ValueError, match=r"above 0.*such as 0\.5"):
            fraction(value)
