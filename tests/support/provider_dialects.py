"""What the tables of the dialects share: a request, its call, and a response that is changed."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.providers import PROVIDERS
from proxy.providers.base import (
    HeaderList,
    OutboundRequest,
    PreparedCall,
    ResponseTransform,
    Target,
)
from proxy.providers.body import scan
from proxy.providers.config import mapping_config, provider_config
from proxy.providers.records import ProviderRecord
from proxy.providers.targets import target_for

NOW = datetime(2026, 1, 1, tzinfo=UTC)
#: What a client's headers look like behind the gateway.
LINES = [("Accept", "*/*"), ("User-Agent", "OpenAI/Python 2.1.0"), ("Accept-Encoding", "gzip")]


def target(
    provider_type: str,
    base_url: str = "https://h",
    model: str | None = None,
    edits: dict[str, Any] | None = None,
    **config: Any,
) -> Target:
    """A target as it is compiled from records, at any address. ``config`` is the provider's."""
    record = ProviderRecord(
        id="p1",
        name="shared",
        provider_type=provider_type,
        base_url=base_url,
        config=config,
        is_active=True,
        is_default=False,
        created_at=NOW,
        updated_at=NOW,
    )
    return target_for(
        record, model, mapping_config(edits or {}), provider_config(config, provider_type)
    ).anywhere()


def call(
    where: Target,
    path: str = "/v1/chat/completions",
    body: str | None = None,
    key: str | None = "sk-up",
    *,
    headers: HeaderList | None = None,
    content_type: str = "application/json",
) -> PreparedCall:
    """Prepare a POST of ``body``, or a GET; the request is as the gateway makes it."""
    lines = LINES if headers is None else headers
    if body is None:
        request = OutboundRequest("GET", path.encode(), lines, None)
        return PROVIDERS[where.dialect].prepare(request, where, key)
    data = body.encode()
    lines = [*lines, ("Content-Type", content_type), ("Content-Length", str(len(data)))]
    request = OutboundRequest("POST", path.encode(), lines, data)
    before = dataclasses.replace(request, headers=list(lines))
    prepared = PROVIDERS[where.dialect].prepare(request, where, key, scan(data, content_type))
    assert request == before, "the client's request was changed"
    return prepared


def sent(prepared: PreparedCall) -> str:
    """The body of a call, whose length stands in the head."""
    body = prepared.request.body
    assert isinstance(body, bytes)
    assert [value for name, value in prepared.request.headers if name == "Content-Length"] == [
        str(len(body))
    ]
    return body.decode()


def refused(*args: Any, **kwargs: Any) -> tuple[str, str | None]:
    """The code and the parameter of the error with which :func:`call` ends."""
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    assert str(caught.value)
    return caught.value.code, caught.value.param


def out(found: ResponseTransform, data: bytes, step: int = 3) -> bytes:
    """What a transform makes of a body that is fed `step` bytes at a time."""
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    return b"".join(map(found.body.feed, pieces)) + found.body.end()


def answered(
    where: Target,
    body: str,
    path: str = "/v1/chat/completions",
    status: int = 200,
    *,
    content_type: str | None = None,
    step: int = 0,
) -> str:
    """What the client gets for ``body``, fed whole or ``step`` bytes at a time."""
    if content_type is None:
        content_type = "text/event-stream" if "data:" in body[:200] else "application/json"
    headers = [("Content-Type", content_type), ("Content-Length", "1"), ("X-Any", "a")]
    found = PROVIDERS[where.dialect].transform(where, path, status, headers)
    if found is None:
        return body
    assert found.headers == [("Content-Type", content_type), ("X-Any", "a")]
    data = body.encode()
    return out(found, data, step or len(data) or 1).decode()
