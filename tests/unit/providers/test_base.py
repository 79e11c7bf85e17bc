"""Targets and what a call shows of itself."""

import dataclasses

import pytest

from proxy.providers import PROVIDERS
from proxy.providers.base import OutboundRequest, PreparedCall, Target


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://api.openai.com", Target("https://api.openai.com", "api.openai.com", "")),
        ("http://h:81", Target("http://h:81", "h:81", "")),
        ("https://h/", Target("https://h", "h", "")),
        ("https://h/v1", Target("https://h", "h", "")),
        ("https://h/openai/v1/", Target("https://h", "h", "/openai")),
        ("https://h/openai", Target("https://h", "h", "/openai")),
        ("https://h/a/b%2Fc", Target("https://h", "h", "/a/b%2Fc")),
        ("http://[::1]:8443/x", Target("http://[::1]:8443", "[::1]:8443", "/x")),
    ],
)
def test_from_url(url: str, target: Target) -> None:
    assert Target.from_url(url) == target


def test_a_call_shows_no_key() -> None:
    request = OutboundRequest("GET", b"/v1/x", [("Authorization", "Bearer sk-secret")], None)
    assert "sk-secret" not in repr(PreparedCall(url="https://h/v1/x", request=request))


def test_requests_are_facts() -> None:
    request = OutboundRequest("GET", b"/v1/x", [], None)
    assert request.chunked is False
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.method = "POST"  # type: ignore[misc]


def test_the_table() -> None:
    assert {name: type(provider).__name__ for name, provider in PROVIDERS.items()} == {
        "openai": "OpenAIProvider",
        "anthropic": "AnthropicProvider",
        "azure": "AzureProvider",
        "custom": "CustomProvider",
        "gemini": "GeminiProvider",
        "ollama": "OllamaProvider",
        "messages+openai": "MessagesProvider",
        "messages+azure": "MessagesProvider",
        "messages+custom": "MessagesProvider",
        "messages+gemini": "MessagesProvider",
        "messages+ollama": "MessagesProvider",
    }
