"""Kinds of upstream, by name. They keep no state, so all requests of a worker share them."""

from collections.abc import Mapping
from typing import Final

from proxy.providers.anthropic.messages_provider import MessagesProvider
from proxy.providers.anthropic.provider import AnthropicProvider
from proxy.providers.azure import AzureProvider
from proxy.providers.base import Provider
from proxy.providers.custom import CustomProvider
from proxy.providers.gemini import GeminiProvider
from proxy.providers.ollama import OllamaProvider
from proxy.providers.openai import OpenAIProvider

_CHATS: Final[Mapping[str, Provider]] = {
    "openai": OpenAIProvider(),
    "azure": AzureProvider(),
    "custom": CustomProvider(),
    "gemini": GeminiProvider(),
    "ollama": OllamaProvider(),
}
#: By :attr:`proxy.providers.base.Target.dialect`.
PROVIDERS: Final[Mapping[str, Provider]] = {
    "anthropic": AnthropicProvider(),
    **_CHATS,
    **{f"messages+{name}": MessagesProvider(chats) for name, chats in _CHATS.items()},
}
