"""The limits as a client sees them (`proxy/ratelimit/headers.py`)."""

import pytest

from proxy.ratelimit import headers
from proxy.ratelimit.headers import duration
from proxy.ratelimit.limiter import Bucket, Charge

TOKEN, PROJECT, LLM = Bucket("token:t", 60), Bucket("project:p", 600), Bucket("token-tpm:t", 1000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (0.999, "999ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (1.01, "2s"),
        (59.5, "1m0s"),
        (360, "6m0s"),
        (3599.1, "1h0m0s"),
        (3600 + 62, "1h1m2s"),
    ],
)
def test_durations_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_headers_of_a_relayed_response() -> None:
    assert headers.rate_limit_headers(None, None) == []
    assert headers.rate_limit_headers((58.7, TOKEN), (-20.0, LLM)) == [
        ("x-proxy-ratelimit-limit-requests", "60"),
        ("x-proxy-ratelimit-remaining-requests", "58"),
        ("x-proxy-ratelimit-reset-requests", "2s"),
        ("x-proxy-ratelimit-limit-tokens", "1000"),
        ("x-proxy-ratelimit-remaining-tokens", "0"),
        ("x-proxy-ratelimit-reset-tokens", "1m2s"),
    ]


def test_a_refusal_for_requests() -> None:
    charges = [Charge(TOKEN, 1), Charge(PROJECT, 1), Charge(LLM, 0)]
    error = headers.rate_limited("token", charges, [0.25, 600.0, 7.0], 0, 2)
    assert (error.status, error.code, error.retry_after) == (429, "rate_limit_exceeded", 1)
    assert str(error) == (
        "Rate limit reached for this access token: 60 requests per minute. Try again in 1 s."
    )
    assert error.headers == (
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "1m0s"),
    )


def test_a_limit_of_one_is_one_request() -> None:
    one = Bucket("token:t", 1)
    error = headers.rate_limited("token", [Charge(one, 1)], [0.0], 0, 1)
    assert "this access token: 1 request per minute." in str(error)


def test_the_wait_is_long_enough_for_all_limits() -> None:
    charges = [Charge(PROJECT, 1), Charge(TOKEN, 1)]
    error = headers.rate_limited("project", charges, [0.0, -9.0], 0, 2)
    assert error.retry_after == 10


def test_a_refusal_for_tokens_has_both_kinds_of_headers() -> None:
    charges = [Charge(Bucket("ip:a", 10), 1), Charge(TOKEN, 1), Charge(LLM, 0)]
    error = headers.rate_limited("token", charges, [3.0, 9.0, -500.0], 2, 2)
    assert "1000 tokens per minute" in str(error)
    assert error.retry_after == 31
    assert dict(error.headers) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "42s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m30s",
    }


def test_too_many_at_once() -> None:
    error = headers.too_many_concurrent("project", 5)
    assert (error.code, error.retry_after) == ("rate_limit_exceeded", 1)
    assert "at once for this project: 5" in str(error)
    assert "for a parent of this access token: 8 may" in str(
        headers.too_many_concurrent("parent", 8)
    )
