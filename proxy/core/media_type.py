"""What a `Content-Type` says (RFC 9110 §8.3.1), whatever its case and parameters."""


def is_json(content_type: str | None) -> bool:
    """Whether it is JSON's, or that of a format on top of JSON (RFC 6839 §3.1)."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def is_event_stream(content_type: str | None) -> bool:
    """Whether it is that of server-sent events."""
    return (content_type or "").partition(";")[0].strip().lower() == "text/event-stream"
