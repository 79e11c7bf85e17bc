"""openai-proxy: a drop-in OpenAI endpoint that keeps the real keys to itself."""

__version__ = "0.1.0"
