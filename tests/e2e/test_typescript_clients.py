"""The official TypeScript clients, with node, through the real server: `tests/e2e/typescript/`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.claude_house import ClaudeHouse, claude_house
from tests.support.fake_upstream import Upstream
from tests.support.mock_anthropic import COUNTED
from tests.support.mock_provider import WORDS, status
from tests.support.typescript_clients import FOLDER, LOCK, install, run_script

pytestmark = pytest.mark.slow
TEXT = "".join(WORDS)


@pytest.fixture(scope="module")
def node() -> str:
    return install()


@pytest.fixture(scope="module")
def made(
    node: str, tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[ClaudeHouse]:
    with claude_house(tmp_path_factory.mktemp("typescript"), session_upstream.url) as house:
        yield house


@pytest.fixture
def house(made: ClaudeHouse) -> ClaudeHouse:
    made.fresh()
    return made


def ask(node: str, house: ClaudeHouse, home: Path, script: str, **more: str) -> dict[str, Any]:
    settings = {"PROXY_URL": house.proxy.url, "PROXY_TOKEN": house.token, **more}
    return run_script(node, script, home, **settings)


def shown(error: dict[str, Any]) -> tuple[str, int, str]:
    """The class of an error, its status and its type."""
    return error["class"], error["status"], error["type"]


@pytest.mark.parametrize(
    ("model", "provider", "tokens"),
    [("openai/openai-large", "openai", 12), ("smart", "claude", 41)],
)
def test_openai(
    node: str, house: ClaudeHouse, tmp_path: Path, model: str, provider: str, tokens: int
) -> None:
    failing = f"ts-failing-{provider}"
    house.upstreams[provider].for_model(failing, status(429, retry_after=7))
    names = {"CHAT": f"ts-chat-{provider}", "STREAM": f"ts-stream-{provider}"}
    more = {"MODEL": model, "FAILING_MODEL": f"{provider}/{failing}", **names}
    seen = ask(node, house, tmp_path, "openai.mjs", **more)

    whole = {"text": TEXT, "finish": "stop", "tokens": tokens, "provider": provider}
    assert seen["buffered"] == whole
    assert seen["streamed"] == {"words": list(WORDS), "finish": "stop", "tokens": tokens}
    trip = {"finish": "tool_calls", "name": "weather", "input": {"city": "Oslo"}, "text": TEXT}
    assert seen["tools"] == trip
    assert seen["streamedTools"] == trip
    assert {"smart", "openai/openai-large", "claude/claude-small"} <= set(seen["models"])

    for name in ("upstreamError", "streamedError"):
        assert shown(seen[name]) == ("RateLimitError", 429, "rate_limit_error")
    assert shown(seen["noModel"]) == ("NotFoundError", 404, "not_found_error")
    assert seen["noModel"]["code"] == "model_not_found"
    assert "no-such-model" in seen["noModel"]["message"]
    assert shown(seen["noToken"])[:2] == ("AuthenticationError", 401)
    assert seen["noToken"]["code"] == "token_not_found"

    for streamed, name in enumerate(names.values()):
        event = house.event(name)
        assert (event["stream"], event["outcome"]) == (bool(streamed), "completed")
        assert event["metadata"]["total_tokens"] == tokens


@pytest.mark.parametrize(
    ("sdk", "credential", "place", "overloaded"),
    [
        ("@anthropic-ai/sdk", "apiKey", "authorization", "OverloadedError"),
        ("@anthropic-ai/sdk", "authToken", "authorization", "OverloadedError"),
        ("anthropic-sdk-0", "apiKey", "x-api-key", "InternalServerError"),
        ("anthropic-sdk-0", "authToken", "authorization", "InternalServerError"),
    ],
)
def test_anthropic(
    node: str,
    house: ClaudeHouse,
    tmp_path: Path,
    sdk: str,
    credential: str,
    place: str,
    overloaded: str,
) -> None:
    own = f"{sdk.rpartition('/')[2]}-{credential}"
    failing = f"ts-failing-{own}"
    house.claude.for_model(failing, status(529))
    names = {"CHAT": f"ts-chat-{own}", "STREAM": f"ts-stream-{own}"}
    more = {"CREDENTIAL": credential, "MODEL": "smart", "FAILING_MODEL": f"claude/{failing}"}
    seen = ask(node, house, tmp_path, "anthropic.mjs", SDK=sdk, **more, **names)

    assert seen["places"] == [place]
    whole = {"text": TEXT, "finish": "end_turn", "tokens": 12, "provider": "claude"}
    assert seen["buffered"] == whole
    assert seen["streamed"] == {"words": list(WORDS), "finish": "end_turn", "tokens": 12}
    trip = {"finish": "tool_use", "name": "weather", "input": {"city": "Oslo"}, "text": TEXT}
    assert seen["tools"] == trip
    assert seen["streamedTools"] == trip
    assert seen["counted"] == COUNTED
    assert {"smart", "claude/claude-small"} <= set(seen["models"])

    for name in ("upstreamError", "streamedError"):
        assert shown(seen[name]) == (overloaded, 529, "overloaded_error")
        assert seen[name]["body"] == house.claude.error(529)
    assert shown(seen["noModel"]) == ("NotFoundError", 404, "not_found_error")
    assert seen["noModel"]["body"]["error"]["code"] == "model_not_found"
    assert shown(seen["noToken"]) == ("AuthenticationError", 401, "authentication_error")
    assert seen["noToken"]["body"]["error"]["code"] == "token_not_found"
    assert seen["noToken"]["requestID"] == seen["noToken"]["body"]["request_id"]

    assert all(house.token not in repr(sent) for sent in house.claude.received)
    for streamed, name in enumerate(names.values()):
        event = house.event(name)
        assert (event["stream"], event["outcome"]) == (bool(streamed), "completed")
        assert event["metadata"]["total_tokens"] == 41


@pytest.mark.parametrize("sdk", ["@anthropic-ai/sdk", "anthropic-sdk-0"])
def test_anthropic_with_a_provider_of_chats(
    node: str, house: ClaudeHouse, tmp_path: Path, sdk: str
) -> None:
    own = f"chats-{sdk.rpartition('/')[2]}"
    failing = f"ts-failing-{own}"
    house.gpt.for_model(failing, status(400))
    names = {"CHAT": f"ts-chat-{own}", "STREAM": f"ts-stream-{own}"}
    more = {"CREDENTIAL": "authToken", "MODEL": "talking-1", "FAILING_MODEL": f"gpt/{failing}"}
    seen = ask(node, house, tmp_path, "anthropic.mjs", SDK=sdk, **more, **names)

    whole = {"text": TEXT, "finish": "end_turn", "tokens": 3, "provider": "gpt"}
    assert seen["buffered"] == whole
    assert seen["streamed"] == {"words": list(WORDS), "finish": "end_turn", "tokens": 3}
    trip = {"finish": "tool_use", "name": "weather", "input": {"city": "Oslo"}, "text": TEXT}
    assert seen["tools"] == trip
    assert seen["streamedTools"] == trip
    assert seen["counted"] == 404
    for name in ("upstreamError", "streamedError"):
        assert shown(seen[name]) == ("BadRequestError", 400, "invalid_request_error")
        assert seen[name]["body"]["error"]["message"] == "mock openai: 400"

    assert {sent.target for sent in house.gpt.received} == {"/v1/chat/completions"}
    for streamed, name in enumerate(names.values()):
        event = house.event(name)
        assert (event["stream"], event["outcome"]) == (bool(streamed), "completed")
        assert event["metadata"]["total_tokens"] == 12


def test_the_lock_pins_everything_and_names_no_host() -> None:
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    root, *packages = json.loads(LOCK.read_text())["packages"].values()
    assert root["dependencies"] == wanted
    versions = [version.rpartition("@")[2] for version in wanted.values()]
    assert all(version[0].isdigit() for version in versions), "no range"
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages)
    assert all("resolved" not in package for package in packages)
