"""What a base URL is, and which addresses it must not lead to."""

from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.providers.base_url import base_url, refuse_private


@pytest.mark.parametrize(
    "value",
    [
        "https://api.openai.com",
        "https://api.openai.com/v1",
        "http://h:8080/a/b%2Fc/",
        "https://[2606:4700::1111]:8443/v1",
        "https://UPPER.example",
    ],
)
def test_is_returned_as_it_was_given(value: str) -> None:
    assert base_url("base_url", value) == value


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "",
        "api.openai.com",
        "//api.openai.com",
        "ftp://h",
        "https://",
        "https:///v1",
        "https://h:port",
        "https://h:0",
        "https://h:65536",
        "https://[::1",
        "https://[fe80::1%25eth0]",
        "https://u@h",
        "https://u:p@h",
        "https://h/?a=1",
        "https://h?",
        "https://h/#a",
        "https://h#",
        "https://h\\@g",
        "https://h/a b",
        " https://h",
        "https://h\n",
        "https://ä.example",
        "https://h/" + "a" * 2048,
    ],
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ClientError) as caught:
        base_url("base_url", value)
    assert caught.value.param == "base_url"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "127.1",
        "[::1]",
        "[::]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a00:1]",
        "[2002:a00:1::]",
        "localhost",
        "LOCALHOST",
        "a.localhost",
        "metadata.google.internal",
    ],
)
def test_addresses_that_are_not_public(host: str) -> None:
    value = base_url("base_url", f"http://{host}:80/v1")
    with pytest.raises(ClientError, match=r"allow_private.*--allow-private") as caught:
        refuse_private("base_url", value)
    assert caught.value.param == "base_url"


@pytest.mark.parametrize(
    "host",
    [
        "api.openai.com",
        "1.1.1.1",
        "[2606:4700::1111]",
        "[64:ff9b::101:101]",
        "10.example",
        "ollama",
    ],
)
def test_public_addresses_and_names(host: str) -> None:
    refuse_private("base_url", f"https://{host}/v1")
