"""What a content type says."""

import pytest

from proxy.core.media_type import is_event_stream, is_json


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON ; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("text/plain", False),
        ("application/jsonl", False),
        ("", False),
        (None, False),
    ],
)
def test_what_is_json(content_type: str | None, expected: bool) -> None:
    assert is_json(content_type) is expected


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", True),
        (" Text/Event-Stream ; charset=utf-8", True),
        ("text/event-streams", False),
        ("application/json", False),
        ("", False),
        (None, False),
    ],
)
def test_what_is_an_event_stream(content_type: str | None, expected: bool) -> None:
    assert is_event_stream(content_type) is expected
