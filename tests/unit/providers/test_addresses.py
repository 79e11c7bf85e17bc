"""Addresses that are not of the public internet, in every spelling."""

import pytest

from proxy.providers.addresses import is_public, leads_inside

PRIVATE = [
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "0.0.0.0", "169.254.169.254"),
    *("100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"),
    *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::10.0.0.1"),
    *("64:ff9b:1::a00:1", "2002:0a00:0001::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe"),
    "::ffff:0:10.0.0.1",
]
PUBLIC = [
    *("1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.1", "168.63.129.17"),
    *("2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:0101:0101::1"),
    "::ffff:0:1.1.1.1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not is_public(address)
    host = f"[{address}]" if ":" in address else address
    assert leads_inside(f"https://{host}:8080/v1")


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)
    host = f"[{address}]" if ":" in address else address
    assert not leads_inside(f"https://{host}/v1")


@pytest.mark.parametrize(
    "host",
    [
        *("127.1", "0x7f000001", "2130706433", "0177.0.0.1", "10.1", "127.0.0.1."),
        *("localhost", "LocalHost", "localhost.", "a.localhost", "metadata.google.internal"),
    ],
)
def test_other_spellings(host: str) -> None:
    assert leads_inside(f"http://{host}/v1")


@pytest.mark.parametrize("host", ["api.openai.com", "10.example.com", "ollama", "localhost.com"])
def test_a_name_says_nothing(host: str) -> None:
    assert not leads_inside(f"https://{host}")


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3", "x:y"])
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        is_public(text)
