"""The table of failures (``proxy/routing/retry.py``), and how a failure is recognised."""

import gzip
import zlib
from email.utils import formatdate

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ConnectFailed, ResponseBroken, UpstreamError, UpstreamTimeout
from proxy.providers.config import FALLBACK_CAUSES
from proxy.routing.key_pool import COOLDOWNS
from proxy.routing.retry import (
    ALWAYS,
    MAX_RETRY_AFTER_SECONDS,
    NEVER,
    RULES,
    Again,
    Against,
    Failure,
    backoff,
    failure_of_error,
    failure_of_event,
    failure_of_response,
    retry_after,
)

NOW = 1_800_000_000.0

#: failure, another key, same target again, next target, against, cooldown as of
TABLE = [
    (Failure.CONNECT, False, Again.PAUSE, "connect", Against.TARGET, None),
    (Failure.AUTH, True, Again.NEVER, "auth", Against.KEY, 401),
    (Failure.FORBIDDEN, True, Again.NEVER, "auth", Against.KEY_MODEL, 403),
    (Failure.PAYMENT, True, Again.NEVER, "auth", Against.KEY, 402),
    (Failure.RATE, True, Again.RETRY_AFTER, "rate", Against.KEY_MODEL, 429),
    (Failure.SERVER, False, Again.BACKOFF, "server", Against.TARGET, None),
    (Failure.BUSY, False, Again.BACKOFF, "server", Against.NOBODY, None),
    (Failure.TIMEOUT, False, Again.NEVER, "timeout", Against.TARGET, None),
    (Failure.RESET, False, Again.NEVER, "reset", Against.TARGET, None),
    (Failure.STREAM_ERROR, False, Again.BACKOFF, "stream_error", Against.TARGET, None),
    (Failure.STREAM_TIMEOUT, False, Again.NEVER, "stream_error", Against.TARGET, None),
    (Failure.STREAM_RATE, True, Again.RETRY_AFTER, "stream_error", Against.KEY_MODEL, 429),
    (Failure.STREAM_AUTH, True, Again.NEVER, "stream_error", Against.KEY, 401),
    (Failure.STREAM_FORBIDDEN, True, Again.NEVER, "stream_error", Against.KEY_MODEL, 403),
    (Failure.STREAM_PAYMENT, True, Again.NEVER, "stream_error", Against.KEY, 402),
    (Failure.STREAM_CUT, False, Again.NEVER, "reset", Against.TARGET, None),
    (Failure.MODEL_NOT_FOUND, False, Again.NEVER, ALWAYS, Against.NOBODY, None),
    (Failure.CONTEXT, False, Again.NEVER, "context", Against.NOBODY, None),
    (Failure.CONTENT, False, Again.NEVER, "content", Against.NOBODY, None),
    (Failure.CLIENT, False, Again.NEVER, NEVER, Against.NOBODY, None),
    (Failure.AFTER_OUTPUT, False, Again.NEVER, NEVER, Against.TARGET, None),
    (Failure.ABANDONED, False, Again.NEVER, NEVER, Against.NOBODY, None),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0].value)
def test_each_row(row: tuple[Failure, bool, Again, str, Against, int | None]) -> None:
    failure, other_key, again, next_target, against, cooldown = row
    rule = RULES[failure]
    assert rule.other_key is other_key
    assert rule.again is again
    assert rule.next_target == next_target
    assert rule.against is against
    assert rule.cooldown_status == cooldown
    assert rule.unsent is (failure is Failure.CONNECT)


def test_the_table_is_whole() -> None:
    assert [row[0] for row in TABLE] == list(Failure) == list(RULES)


def test_every_cause_is_a_setting_and_every_cooldown_has_a_length() -> None:
    causes = {rule.next_target for rule in RULES.values()} - {ALWAYS, NEVER}
    assert causes == set(FALLBACK_CAUSES)
    for rule in RULES.values():
        cools_a_key = rule.against in (Against.KEY, Against.KEY_MODEL)
        assert (rule.cooldown_status in COOLDOWNS) is cools_a_key
        assert rule.other_key is cools_a_key


@pytest.mark.parametrize("failure", list(Failure))
def test_the_next_target_needs_its_cause(failure: Failure) -> None:
    rule = RULES[failure]
    every = frozenset(FALLBACK_CAUSES)
    if rule.next_target == ALWAYS:
        assert rule.falls_back(frozenset())
    elif rule.next_target == NEVER:
        assert not rule.falls_back(every)
    else:
        assert rule.falls_back(frozenset({rule.next_target}))
        assert not rule.falls_back(every - {rule.next_target})


def middle() -> float:
    return 0.5


@pytest.mark.parametrize(
    ("failure", "retries", "said", "pause"),
    [
        (Failure.CONNECT, 0, None, 0.2),
        (Failure.SERVER, 0, None, 0.125),
        (Failure.SERVER, 2, None, 0.5),
        (Failure.SERVER, 9, None, 2.0),
        (Failure.SERVER, 0, 2.0, 2.125),
        (Failure.SERVER, 0, 2.1, None),
        (Failure.RATE, 0, None, None),
        (Failure.RATE, 0, 0.0, 0.125),
        (Failure.RATE, 0, 1.5, 1.625),
        (Failure.RATE, 0, 3.0, None),
        (Failure.STREAM_ERROR, 1, None, 0.25),
        (Failure.AUTH, 0, 1.0, None),
        (Failure.TIMEOUT, 0, 1.0, None),
        (Failure.RESET, 0, None, None),
        (Failure.CLIENT, 0, 0.0, None),
        (Failure.AFTER_OUTPUT, 0, 0.0, None),
    ],
)
def test_pause(failure: Failure, retries: int, said: float | None, pause: float | None) -> None:
    assert RULES[failure].pause(retries, said, middle) == pytest.approx(pause)


def test_pause_after_a_failed_connect_is_100_to_300_ms() -> None:
    rule = RULES[Failure.CONNECT]
    assert rule.pause(0, None, lambda: 0.0) == pytest.approx(0.1)
    assert rule.pause(0, None, lambda: 1.0) == pytest.approx(0.3)


def body(**error: object) -> bytes:
    return orjson.dumps({"error": error})


@pytest.mark.parametrize(
    ("status", "text", "provider_type", "failure"),
    [
        (200, b"", "openai", None),
        (302, b"", "openai", None),
        (400, b"", "openai", Failure.CLIENT),
        (400, b'{"error": "flat"}', "openai", Failure.CLIENT),
        (400, b"[]", "gemini", Failure.CLIENT),
        (400, b"[1]", "gemini", Failure.CLIENT),
        (400, body(code="context_length_exceeded"), "openai", Failure.CONTEXT),
        (400, body(code="content_filter"), "azure", Failure.CONTENT),
        (400, body(code="content_policy_violation"), "openai", Failure.CONTENT),
        (400, body(code=["content_filter"]), "openai", Failure.CLIENT),
        (400, body(message="context_length_exceeded content_filter"), "openai", Failure.CLIENT),
        (400, body(type="context_length_exceeded"), "openai", Failure.CLIENT),
        (413, body(code="context_length_exceeded"), "custom", Failure.CONTEXT),
        (401, b"", "openai", Failure.AUTH),
        (402, b"", "openai", Failure.PAYMENT),
        (403, b"<html>", "openai", Failure.FORBIDDEN),
        (403, body(code="unsupported_country_region_territory"), "openai", Failure.FORBIDDEN),
        (404, b"", "openai", Failure.CLIENT),
        (404, body(message="model_not_found"), "openai", Failure.CLIENT),
        (404, body(code="model_not_found"), "openai", Failure.MODEL_NOT_FOUND),
        (404, body(code="DeploymentNotFound"), "azure", Failure.MODEL_NOT_FOUND),
        (404, body(type="not_found_error"), "anthropic", Failure.MODEL_NOT_FOUND),
        (404, body(type="not_found_error"), "ollama", Failure.MODEL_NOT_FOUND),
        (404, body(type="not_found_error"), "openai", Failure.CLIENT),
        (404, b'[{"error": {"status": "NOT_FOUND"}}]', "gemini", Failure.MODEL_NOT_FOUND),
        (408, b"", "openai", Failure.CLIENT),
        (409, b"", "openai", Failure.CLIENT),
        (413, b"", "openai", Failure.CLIENT),
        (422, b"", "openai", Failure.CLIENT),
        (429, b"", "openai", Failure.RATE),
        (429, body(code="rate_limit_exceeded", type="tokens"), "openai", Failure.RATE),
        (429, body(code="insufficient_quota"), "openai", Failure.PAYMENT),
        (429, body(type="insufficient_quota", code=None), "openai", Failure.PAYMENT),
        (429, body(message="insufficient_quota, credit"), "openai", Failure.RATE),
        (429, b'[{"error": {"status": "RESOURCE_EXHAUSTED"}}]', "gemini", Failure.RATE),
        (500, b"", "openai", Failure.SERVER),
        (501, b"", "openai", Failure.CLIENT),
        (502, b"", "openai", Failure.SERVER),
        (503, b"", "openai", Failure.SERVER),
        (503, b"", "ollama", Failure.BUSY),
        (500, b"", "ollama", Failure.SERVER),
        (504, b"", "openai", Failure.TIMEOUT),
        (520, b"", "openai", Failure.SERVER),
        (524, b"", "openai", Failure.TIMEOUT),
        (529, b"", "anthropic", Failure.SERVER),
        (
            400,
            b'[{"error": {"code": 400, "message": "API key not valid. Please pass a valid one."}}]',
            "gemini",
            Failure.AUTH,
        ),
        (
            400,
            b'{"error": {"details": [{"@type": "x"}, {"reason": "API_KEY_INVALID"}]}}',
            "gemini",
            Failure.AUTH,
        ),
        (400, body(message="API key not valid."), "openai", Failure.CLIENT),
        (400, body(message="You wrote: API key not valid"), "gemini", Failure.CLIENT),
    ],
)
def test_failure_of_response(
    status: int, text: bytes, provider_type: str, failure: Failure | None
) -> None:
    assert failure_of_response(status, [], text, provider_type) is failure


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("DEFLATE", zlib.compress)]
)
def test_a_compressed_body_is_read(encoding: str, compress: object) -> None:
    text = compress(body(code="insufficient_quota"))  # type: ignore[operator]
    headers = [("Content-Encoding", encoding)]
    assert failure_of_response(429, headers, text) is Failure.PAYMENT


@pytest.mark.parametrize("text", [b"\x1f\x8bbroken", gzip.compress(b" " * 1_000_000)])
def test_a_compressed_body_that_cannot_be_read_counts_by_its_status(text: bytes) -> None:
    assert failure_of_response(429, [("content-encoding", "gzip")], text) is Failure.RATE


def test_a_long_body_counts_by_its_status() -> None:
    text = body(code="insufficient_quota", message="x" * 70_000)
    assert failure_of_response(429, [], text) is Failure.RATE


@given(
    st.integers(100, 999),
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(max_size=5), st.lists).map(
        lambda value: orjson.dumps({"error": value})
    ),
    st.sampled_from(["openai", "gemini", "anthropic", "ollama"]),
)
def test_every_response_is_judged(status: int, text: bytes, provider_type: str) -> None:
    failure = failure_of_response(status, [], text, provider_type)
    assert (failure is None) is (status < 400)
    assert failure_of_event(text, provider_type) in RULES


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"", Failure.STREAM_ERROR),
        (b"[DONE]", Failure.STREAM_ERROR),
        (b'{"type":"error","error":{"type":"overloaded_error"}}', Failure.STREAM_ERROR),
        (b'{"type":"error","error":{"type":"api_error"}}', Failure.STREAM_ERROR),
        (b'{"type":"error","error":{"type":"rate_limit_error"}}', Failure.STREAM_RATE),
        (b'{"type":"error","error":{"type":"authentication_error"}}', Failure.STREAM_AUTH),
        (b'{"type":"error","error":{"type":"permission_error"}}', Failure.STREAM_FORBIDDEN),
        (b'{"type":"error","error":{"type":"billing_error"}}', Failure.STREAM_PAYMENT),
        (b'{"type":"error","error":{"type":"timeout_error"}}', Failure.STREAM_TIMEOUT),
        (b'{"type":"error","error":{"type":"invalid_request_error"}}', Failure.CLIENT),
        (b'{"error":{"type":"server_error","code":null}}', Failure.STREAM_ERROR),
        (b'{"error":{"type":"server_error","code":"content_filter"}}', Failure.CONTENT),
        (b'{"error":{"code":"insufficient_quota"}}', Failure.STREAM_PAYMENT),
        (
            b'{"error":{"type":"invalid_request_error","code":"context_length_exceeded"}}',
            Failure.CONTEXT,
        ),
        (b'[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}]', Failure.STREAM_RATE),
        (b'[{"error":{"code":503,"status":"UNAVAILABLE"}}]', Failure.STREAM_ERROR),
        (b'[{"error":{"code":504}}]', Failure.STREAM_TIMEOUT),
        (b'[{"error":{"code":422}}]', Failure.CLIENT),
        (b'{"type":"error","code":"rate_limit_exceeded","message":"m"}', Failure.STREAM_RATE),
        (
            b'{"type":"response.failed","response":{"error":{"code":"server_error"}}}',
            Failure.STREAM_ERROR,
        ),
        (
            b'{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}',
            Failure.STREAM_RATE,
        ),
    ],
)
def test_failure_of_event(data: bytes, failure: Failure) -> None:
    assert failure_of_event(data) is failure


def test_a_bad_key_of_gemini_in_an_event() -> None:
    data = b'[{"error":{"code":400,"message":"API key not valid. Please"}}]'
    assert failure_of_event(data, "gemini") is Failure.STREAM_AUTH
    assert failure_of_event(data, "custom") is Failure.CLIENT


@pytest.mark.parametrize(
    ("error", "sent", "head", "failure"),
    [
        (ConnectFailed(), False, False, Failure.CONNECT),
        (ConnectFailed(), True, False, Failure.CONNECT),
        (ResponseBroken(), False, False, Failure.CONNECT),
        (ResponseBroken(), True, False, Failure.RESET),
        (ResponseBroken(), True, True, Failure.STREAM_CUT),
        (UpstreamTimeout(), False, False, Failure.CONNECT),
        (UpstreamTimeout(), True, False, Failure.TIMEOUT),
        (UpstreamTimeout(), True, True, Failure.TIMEOUT),
        (UpstreamError(), True, False, Failure.RESET),
    ],
)
def test_failure_of_error(error: UpstreamError, sent: bool, head: bool, failure: Failure) -> None:
    assert failure_of_error(error, sent, head=head) is failure


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([("Retry-After", "7")], 7.0),
        ([("RETRY-AFTER", " 1.5 ")], 1.5),
        ([("retry-after", "7"), ("Retry-After-Ms", "250")], 0.25),
        ([("retry-after", "7"), ("retry-after-ms", "soon")], 7.0),
        ([("retry-after", "7"), ("retry-after", "9")], 7.0),
        ([("retry-after", "-3")], 0.0),
        ([("retry-after-ms", "-3")], 0.0),
        ([("retry-after", "7"), ("X-MS-Retry-After-MS", "1500")], 1.5),
        ([("x-ms-retry-after-ms", "1500"), ("retry-after-ms", "500")], 0.5),
        ([("retry-after", "999999999")], MAX_RETRY_AFTER_SECONDS),
        ([("retry-after", "9" * 400)], None),
        ([("retry-after", "inf")], None),
        ([("retry-after", "nan")], None),
        ([("retry-after", "1e9")], None),
        ([("retry-after", "٣")], None),
        ([("retry-after", "")], None),
        ([("retry-after", "soon")], None),
        ([("retry-after", formatdate(NOW + 90, usegmt=True))], 90.0),
        ([("retry-after", formatdate(NOW + 90).replace("+0000", "-0000"))], 90.0),
        ([("retry-after", formatdate(NOW - 90, usegmt=True))], 0.0),
        ([("retry-after", formatdate(NOW + 10**7, usegmt=True))], MAX_RETRY_AFTER_SECONDS),
        ([("retry-after", "Fri, 99 Foo 2026 99:99:99 GMT")], None),
    ],
)
def test_retry_after(headers: list[tuple[str, str]], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text(max_size=60), st.floats(0, 1e11))
def test_any_retry_after_is_bounded(text: str, now: float) -> None:
    for name in ("retry-after", "retry-after-ms", "x-ms-retry-after-ms"):
        seconds = retry_after([(name, text)], now)
        assert seconds is None or 0.0 <= seconds <= MAX_RETRY_AFTER_SECONDS


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_has_full_jitter_and_a_limit(retries: int, chance: float) -> None:
    whole = backoff(retries, lambda: 1.0)
    assert whole == (0.25, 0.5, 1.0, 2.0, 4.0)[min(retries, 4)]
    assert backoff(retries, lambda: chance) == pytest.approx(chance * whole)
