"""A long history with images and tools: other connections are served while it is translated."""

import json
from typing import Any

import pytest

from proxy.providers.anthropic import provider
from tests.support.loop_probe import LoopProbe
from tests.support.provider_dialects import call, sent, target

CLAUDE = target("anthropic", "https://h/", "claude-x")
MIB = 1024 * 1024


def history(size: int, image: int) -> tuple[str, int]:
    """A chat of about `size` bytes, its images of `image`, and how many turns Anthropic sees."""
    url = "data:image/png;base64," + "iVBORw0K" * (image // 8)
    turns: list[dict[str, Any]] = []
    for number in range(max(1, size // (image + 4096))):
        name = f"call_{number}"
        function = {"name": "f", "arguments": json.dumps({"x": "word " * 400})}
        turns += [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
            {
                "role": "assistant",
                "tool_calls": [{"id": name, "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": name, "content": "result " * 300},
        ]
    # A result and the user's turn behind it become one.
    return json.dumps({"model": "m", "messages": turns}), 1 + 2 * (len(turns) // 3)


@pytest.mark.parametrize("image", [4096, 2 * MIB])
def test_others_are_served_while_16_mib_are_translated(image: int) -> None:
    body, turns = history(16 * MIB, image)
    with LoopProbe() as other:
        before = other.served
        prepared = call(CLAUDE, body=body)
        # Many times more often than a body is looked through, decoded and written.
        assert other.served - before >= 10
    made = json.loads(sent(prepared))
    assert len(made["messages"]) == turns
    assert made["messages"][0]["content"][0]["source"]["data"].startswith("iVBORw0K")


@pytest.mark.parametrize(("size", "on_a_thread"), [(MIB, 0), (4 * MIB, 1)])
def test_a_large_body_is_joined_on_a_thread(
    size: int, on_a_thread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[int] = []
    join = provider.joined

    def counted(pieces: list[bytes]) -> bytes:
        joined.append(len(pieces))
        return join(pieces)

    monkeypatch.setattr(provider, "joined", counted)
    body, turns = history(size, MIB // 4)
    assert len(json.loads(sent(call(CLAUDE, body=body)))["messages"]) == turns
    assert len(joined) == on_a_thread
