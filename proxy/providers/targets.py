"""Targets of configured providers: what of a base URL is the same, however it is written."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from proxy.providers.base import NO_FACTS, ModelFacts, Target
from proxy.providers.config import MappingConfig, ProviderConfig
from proxy.providers.records import ProviderRecord


def target_for(
    provider: ProviderRecord,
    model: str | None,
    edits: MappingConfig,
    config: ProviderConfig,
    facts: ModelFacts = NO_FACTS,
) -> Target:
    """Return one model at `provider` as a target. `config` is the provider's, compiled; `facts` are
    what is known of the model.

    The base URL may end with a slash, and may have its version or not:

    - OpenAI's API: `https://host/prefix` or `https://host/prefix/v1`
    - Azure: the resource, or that with `/openai` or `/openai/v1`
    - Gemini: the host, or that with `/v1beta` or `/v1beta/openai`
    """
    base = Target.from_url(provider.base_url)  # without `/v1` and slashes at the end
    if not config.allow_private:
        base = base.public_only()
    prefix = _PREFIX.get(provider.provider_type)
    return replace(
        base,
        prefix=base.prefix if prefix is None else prefix(base.prefix),
        provider=provider.name,
        provider_type=provider.provider_type,
        model=model,
        edits=edits,
        config=config,
        shared=True,
        facts=facts,
    )


def _of_azure(path: str) -> str:
    return path.removesuffix("/openai").rstrip("/")


def _of_gemini(path: str) -> str:
    if path.endswith("/openai"):
        return path
    return (path or "/v1beta") + "/openai"


_PREFIX: Final[Mapping[str, Callable[[str], str]]] = {"azure": _of_azure, "gemini": _of_gemini}
