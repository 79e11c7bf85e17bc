"""Address ranges, both families and what lies between them."""

import pytest

from proxy.policy.addresses import Addresses, address_range, usual_spelling


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
    ],
)
def test_ranges(value: str, stored: str) -> None:
    assert address_range(value) == stored
    assert address_range(stored) == stored


@pytest.mark.parametrize(
    "value",
    ["", "10.0.0.1/8", "10.0.0", "300.0.0.1", "010.0.0.1", "10.0.0.0/33", "a.test", "fe80::1%eth0"],
)
def test_what_is_no_range(value: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        address_range(value)


ALLOWED = Addresses(["192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "fe80::/10"])


@pytest.mark.parametrize(
    ("client", "allowed"),
    [
        ("192.0.2.0", True),
        ("192.0.2.255", True),
        ("192.0.3.0", False),
        ("198.51.100.7", True),
        ("198.51.100.8", False),
        ("::ffff:192.0.2.1", True),
        ("::FFFF:c000:0201", True),
        ("::ffff:192.0.3.1", False),
        ("::192.0.2.1", False),
        ("64:ff9b::192.0.2.1", False),
        ("2001:db8:ffff::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", True),
        ("192.0.2.1:4711", True),
        ("192.0.3.1:4711", False),
        ("[2001:db8::1]:443", True),
        ("[2001:db8::1]", True),
        ("[2001:db9::1]:443", False),
        ("", False),
        ("unknown", False),
        ("192.0.2.1, 192.0.2.1", False),
        ("192.0.2.1 ", False),
        ("3221225985", False),
        ("192.0.2", False),
        ("192.0.2.01", False),
        ("192.0.2.١", False),
        ("/run/proxy.sock", False),
    ],
)
def test_clients(client: str, allowed: bool) -> None:
    assert ALLOWED.allow(client) is allowed


def test_all_of_one_family_is_not_all_of_the_other() -> None:
    assert not Addresses(["::/0"]).allow("192.0.2.1")
    assert not Addresses(["0.0.0.0/0"]).allow("2001:db8::1")
    assert Addresses(["0.0.0.0/0"]).allow("::ffff:192.0.2.1")


@pytest.mark.parametrize(
    ("client", "usual"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:0201", "192.0.2.1"),
        ("0:0:0:0:0:ffff:c000:201", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:4711", "192.0.2.1:4711"),
        ("[::ffff:192.0.2.1]", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1:4711"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("::192.0.2.1", "::192.0.2.1"),
        ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.1"),
        ("::ffff:192.0.2.999", "::ffff:192.0.2.999"),
        ("a:b", "a:b"),
        ("", ""),
    ],
)
def test_one_spelling_of_an_address(client: str, usual: str) -> None:
    assert usual_spelling(client) == usual
