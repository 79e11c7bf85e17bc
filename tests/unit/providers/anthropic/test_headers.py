"""Rate limits under the names that OpenAI's clients read."""

import pytest

from proxy.providers.anthropic.headers import chat_headers

NOW = 1_795_834_800.0  # 2026-11-28T03:00:00Z
LIMIT = "anthropic-ratelimit"


def test_limits() -> None:
    lines = [
        ("anthropic-ratelimit-requests-limit", "50"),
        ("Anthropic-Ratelimit-Requests-Remaining", "49"),
        ("anthropic-ratelimit-requests-reset", "2026-11-28T03:06:00Z"),
        ("anthropic-ratelimit-tokens-limit", "9000"),
        ("anthropic-ratelimit-tokens-remaining", "8000"),
        ("anthropic-ratelimit-tokens-reset", "2026-11-28T04:00:01+00:00"),
        ("anthropic-ratelimit-input-tokens-limit", "1"),
        ("request-id", "req_1"),
    ]
    assert chat_headers(lines, NOW) == [
        *lines,
        ("x-ratelimit-limit-requests", "50"),
        ("x-ratelimit-remaining-requests", "49"),
        ("x-ratelimit-reset-requests", "6m0s"),
        ("x-ratelimit-limit-tokens", "9000"),
        ("x-ratelimit-remaining-tokens", "8000"),
        ("x-ratelimit-reset-tokens", "1h0m1s"),
        ("x-request-id", "req_1"),
    ]


@pytest.mark.parametrize(
    ("moment", "wanted"),
    [
        ("2026-11-28T03:00:00.5Z", "1s"),
        ("2026-11-28T02:00:00Z", "0s"),
        ("2026-11-28T03:00:59", "59s"),
        ("soon", None),
        ("", None),
    ],
)
def test_moments(moment: str, wanted: str | None) -> None:
    found = dict(chat_headers([(f"{LIMIT}-tokens-reset", moment)], NOW))
    assert found.get("x-ratelimit-reset-tokens") == wanted


def test_what_the_upstream_says_itself_stays() -> None:
    lines = [
        ("X-Request-Id", "a"),
        ("request-id", "b"),
        ("x-ratelimit-limit-tokens", "1"),
        ("anthropic-ratelimit-tokens-limit", "2"),
    ]
    assert chat_headers(lines, NOW) == lines
