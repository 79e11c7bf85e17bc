"""CORS: off, it touches nothing; on, only who was named gets permission."""

import time

import pytest

from proxy.gateway.cors import Cors

PATTERN = "https://*.preview.example.com"
ASKING = {"ORIGIN": "https://a.test", "ACCESS-CONTROL-REQUEST-METHOD": "POST"}


def test_off_it_touches_nothing() -> None:
    cors = Cors(())
    assert not cors.enabled
    assert cors.preflight(ASKING.get) is None
    assert cors.response_headers("https://a.test") == []
    headers = [("Access-Control-Allow-Origin", "*"), ("X", "1")]
    assert cors.replaced(headers) == headers
    assert not cors.allows("https://a.test")
    assert not cors.allows("")


@pytest.mark.parametrize(
    "origin",
    [
        "https://x.preview.example.com",
        "https://a.b-c.preview.example.com",
        "HTTPS://X.Preview.Example.COM",
    ],
)
def test_a_pattern_matches_any_run_of_a_host_name(origin: str) -> None:
    assert Cors([PATTERN]).allows(origin)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://preview.example.com",
        "https://.preview.example.com",
        "https://evil.com/.preview.example.com",
        "https://evil.com#.preview.example.com",
        "https://evil.com?.preview.example.com",
        "https://evil.com:1.preview.example.com",
        "https://evil@x.preview.example.com",
        "https://evil.com\\.preview.example.com",
        "https://x.preview.example.com.evil.com",
        "https://x.preview.example.com:8443",
        "https://x.preview.example.com\n",
        "http://x.preview.example.com",
        "chrome-https://x.preview.example.com",
        "https://xpreview.example.com",
        "https://x.previewXexample.com",
        "https://" + "x" * 400 + ".preview.example.com",
    ],
)
def test_and_nothing_else(origin: str) -> None:
    assert not Cors([PATTERN]).allows(origin)


def test_exact_origins() -> None:
    cors = Cors(["https://App.example.com", "http://localhost:3000", "http://[::1]:3000"])
    assert cors.allows("https://app.example.com")
    assert cors.allows("http://localhost:3000")
    assert cors.allows("http://[::1]:3000")
    for other in ("http://localhost", "http://localhost:3001", "https://app.example.com:443"):
        assert not cors.allows(other)


def test_a_long_origin_costs_no_time() -> None:
    cors = Cors(["https://*.*.example.com"])
    began = time.monotonic()
    assert not cors.allows("https://" + "a." * 16_000)
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize(
    ("origin", "asked", "expected"),
    [
        ("https://a.test", "POST", True),
        ("https://evil.test", "POST", True),  # answered here, without permission
        ("https://a.test", None, False),
        (None, "POST", False),
        ("", "POST", False),
    ],
)
def test_what_is_a_preflight(origin: str | None, asked: str | None, expected: bool) -> None:
    sent = {"ORIGIN": origin, "ACCESS-CONTROL-REQUEST-METHOD": asked}
    assert (Cors(["https://a.test"]).preflight(sent.get) is not None) is expected


def test_the_response_to_a_preflight() -> None:
    cors = Cors(["https://a.test"])
    asked = ASKING | {"ACCESS-CONTROL-REQUEST-HEADERS": "authorization,x-stainless-os"}
    headers = dict(cors.preflight(asked.get) or [])
    assert headers["Access-Control-Allow-Origin"] == "https://a.test"
    assert "DELETE" in headers["Access-Control-Allow-Methods"]
    assert headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
    assert int(headers["Access-Control-Max-Age"]) > 0
    assert "Origin" in headers["Vary"]
    refused = cors.preflight((asked | {"ORIGIN": "https://evil.test"}).get)
    assert [name for name, _ in refused or []] == ["Vary"]
    anybody = dict(Cors(["*"]).preflight((ASKING | {"ORIGIN": "null"}).get) or [])
    assert anybody["Access-Control-Allow-Origin"] == "*"
    assert anybody["Access-Control-Allow-Headers"] == (
        "Authorization, X-Api-Key, Api-Key, X-Goog-Api-Key, Content-Type"
    )


def test_a_hostile_origin_takes_no_time() -> None:
    """A regular expression with five stars would try for half a minute."""
    cors = Cors(["https://*-*-*-*-*.vercel.app"])
    assert not cors.allows("https://" + "-" * 280)
    assert cors.allows("https://a-b-c-d-e.vercel.app")


def test_the_headers_of_a_response() -> None:
    cors = Cors(["https://a.test"])
    assert cors.response_headers("https://a.test") == [
        ("Vary", "Origin"),
        ("Access-Control-Allow-Origin", "https://a.test"),
        ("Access-Control-Expose-Headers", "*"),
    ]
    # A cache must not give a response without permission to an origin that has it.
    assert cors.response_headers("https://evil.test") == [("Vary", "Origin")]
    assert cors.response_headers(None) == [("Vary", "Origin")]
    assert (
        dict(Cors(["*"]).response_headers("https://a.test"))["Access-Control-Allow-Origin"] == "*"
    )
    assert Cors(["*"]).response_headers(None) == []


def test_the_upstream_s_are_replaced() -> None:
    headers = [("X", "1"), ("access-control-allow-origin", "*"), ("Access-Control-Max-Age", "5")]
    assert Cors(["*"]).replaced(headers) == [("X", "1")]
