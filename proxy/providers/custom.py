"""Any other service with OpenAI's API: vLLM, LiteLLM, OpenRouter, Mistral, a proxy of one's own."""

from proxy.providers.openai import OpenAIProvider


class CustomProvider(OpenAIProvider):
    """As OpenAI's. What a service lacks, it refuses itself."""
