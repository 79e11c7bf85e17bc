"""Browser origins: exact, or any one label in front of a domain."""

import pytest

from proxy.core.errors import ClientError
from proxy.policy.origins import Origins, origin_pattern


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("https://App.Example.com", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("https://*.example.com", "https://*.example.com"),
        ("https://*.example.com:8443", "https://*.example.com:8443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ],
)
def test_patterns(value: str, stored: str) -> None:
    assert origin_pattern(value) == stored
    assert origin_pattern(stored) == stored


@pytest.mark.parametrize(
    "value",
    [
        "",
        "*",
        "null",
        "example.com",
        "https://",
        "https://example.com/",
        "https://example.com/path",
        "https://user@example.com",
        "https://*",
        "https://*.com",
        "https://example.*",
        "https://a.*.example.com",
        "https://*.*.example.com",
        "https://app-*.example.com",
        "https://*example.com",
        "https://.example.com",
        "https://example.com.",
        "*://example.com",
        "https://example.com:*",
        "https://exämple.com",
        "https://" + "a" * 300 + ".com",
    ],
)
def test_what_is_no_pattern(value: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        origin_pattern(value)


ALLOWED = Origins(["https://a.test", "https://*.example.com", "http://*.example.com:81"])


@pytest.mark.parametrize(
    "origin",
    [
        "https://a.test",
        "HTTPS://A.Test",
        "https://x.example.com",
        "https://x-1.example.com",
        "http://x.example.com:81",
    ],
)
def test_allowed(origin: str) -> None:
    ALLOWED.check([origin])


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://a.test",
        "https://a.test:8443",
        "https://a.test.",
        "https://a.test/",
        "https://b.test",
        "https://xa.test",
        "https://example.com",
        "https://.example.com",
        "https://*.example.com",
        "https://x.y.example.com",
        "https://x.example.com.evil.test",
        "https://evil.test/.example.com",
        "https://evil.test?.example.com",
        "https://evil.test#.example.com",
        "https://u@x.example.com",
        "https://x.example.com:81",
        "https://xexample.com",
        "https://x\n.example.com",
        "https://a.test, https://a.test",
        "https://" + "x" * 400 + ".example.com",
    ],
)
def test_not_allowed(origin: str) -> None:
    with pytest.raises(ClientError) as caught:
        ALLOWED.check([origin])
    assert (caught.value.status, caught.value.code) == (403, "origin_not_allowed")


def test_one_origin_is_required() -> None:
    with pytest.raises(ClientError) as caught:
        ALLOWED.check([])
    assert (caught.value.status, caught.value.code) == (400, "origin_required")
    with pytest.raises(ClientError) as caught:
        ALLOWED.check(["https://a.test", "https://a.test"])
    assert caught.value.code == "origin_not_allowed"
