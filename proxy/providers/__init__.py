"""Kinds of upstream, by name."""

from collections.abc import Callable, Mapping
from typing import Final

from proxy.providers.base import Provider
from proxy.providers.openai import OpenAIProvider

PROVIDERS: Final[Mapping[str, Callable[[], Provider]]] = {"openai": OpenAIProvider}
