"""Claude's models through the cache: messages as they came, and translated for OpenAI's clients."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support.claude_house import ClaudeHouse, claude_house
from tests.support.fake_upstream import Upstream
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[ClaudeHouse]:
    settings = {"CACHE_TTL": "5m", "WEB_CONCURRENCY": "1", "REVOCATION_INTERVAL": "0.2"}
    folder = tmp_path_factory.mktemp("claude")
    with claude_house(folder, session_upstream.url, **settings) as made:
        made.project_id = made.make(
            "projects", {"name": "cached", "providers": ["*"], "cache": "on"}
        )["id"]
        made.token = made.mint()
        yield made


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_it_comes_again(house: ClaudeHouse, path: str, stream: bool) -> None:
    ask: dict[str, Any] = {
        "model": "smart",
        "max_tokens": 99,
        "stream": stream,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    lines = {"anthropic_version": "2023-06-01"}
    first = house.post(path, json.dumps(ask).encode(), **lines)
    assert (first.status_code, first.headers["X-Cache"]) == (200, "MISS"), first.text
    found: list[requests.Response] = []

    def hits() -> bool:
        found[:] = [house.post(path, json.dumps(ask).encode(), **lines)]
        return found[0].headers["X-Cache"] == "HIT"

    wait_until(hits)
    (hit,) = found
    assert hit.headers["Content-Type"] == first.headers["Content-Type"]
    assert hit.headers.get("Content-Length") == first.headers.get("Content-Length")
    assert hit.content == first.content
    asked = len(house.claude.received)
    other = {**ask, "max_tokens": 98}
    assert house.post(path, json.dumps(other).encode(), **lines).headers["X-Cache"] == "MISS"
    assert len(house.claude.received) == asked + 1
