"""What a response says of the cache."""

import pytest

from proxy.cache import status
from proxy.cache.policy import Forward, RequestVerdict
from tests.support.cached_responses import NOW, cached_response

ENTRY = cached_response(ttl=300.0)
KEY = "9f86d081884c7d65"


def test_a_hit() -> None:
    assert status.hit(KEY, ENTRY, NOW + 59.2) == [
        ("X-Cache", "HIT"),
        ("Cache-Status", "openai-proxy; hit; ttl=240"),
        ("Age", "59"),
        ("X-Cache-Timestamp", "2027-01-15T08:00:00Z"),
        ("X-Cache-Key", KEY),
    ]


@pytest.mark.parametrize(
    ("age", "shown", "ttl"), [(-5, 0, 305), (0, 0, 300), (299.9, 299, 0), (300, 300, 0)]
)
def test_ages(age: float, shown: int, ttl: int) -> None:
    lines = dict(status.hit(KEY, ENTRY, NOW + age))
    assert lines["Age"] == str(shown)
    assert lines["Cache-Status"] == f"openai-proxy; hit; ttl={ttl}"


def test_a_stale_hit() -> None:
    lines = dict(status.hit(KEY, ENTRY, NOW + 330.5, stale=True))
    assert lines["Cache-Status"] == "openai-proxy; hit; ttl=-31; detail=stale-if-error"
    assert lines["X-Cache"] == "HIT"
    assert lines["Age"] == "330"


def test_a_replay() -> None:
    assert status.replayed(NOW, NOW + 7) == [
        ("X-Cache", "HIT"),
        ("Cache-Status", "openai-proxy; hit; detail=idempotency-key"),
        ("Age", "7"),
        ("X-Cache-Timestamp", "2027-01-15T08:00:00Z"),
    ]


MISSED = RequestVerdict(lookup=True, store=True, share=True, ttl=9, forward=Forward.MISS)


@pytest.mark.parametrize(
    ("verdict", "options", "cache", "said"),
    [
        (MISSED, {}, "MISS", "fwd=uri-miss"),
        (MISSED, {"expired": True}, "MISS", "fwd=stale"),
        (MISSED, {"collapsed": True}, "MISS", "fwd=uri-miss; collapsed"),
        (RequestVerdict(detail="endpoint"), {}, "BYPASS", "fwd=bypass; detail=endpoint"),
        (
            RequestVerdict(detail="endpoint"),
            {"expired": True},
            "BYPASS",
            "fwd=bypass; detail=endpoint",
        ),
        (
            RequestVerdict(store=True, ttl=9, forward=Forward.REQUEST, detail="no-cache"),
            {},
            "MISS",
            "fwd=request; detail=no-cache",
        ),
        (
            RequestVerdict(forward=Forward.REQUEST, detail="no-store"),
            {},
            "BYPASS",
            "fwd=request; detail=no-store",
        ),
    ],
)
def test_what_goes_upstream(
    verdict: RequestVerdict, options: dict[str, bool], cache: str, said: str
) -> None:
    assert status.forwarded(verdict, **options) == [
        ("X-Cache", cache),
        ("Cache-Status", f"openai-proxy; {said}"),
    ]


def test_a_time_is_in_utc_and_whole_seconds() -> None:
    assert status.timestamp(0.9) == "1970-01-01T00:00:00Z"
    assert status.timestamp(NOW + 86399.99) == "2027-01-16T07:59:59Z"
