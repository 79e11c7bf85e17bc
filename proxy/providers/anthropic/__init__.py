"""Anthropic: its own API relayed to its own clients, and translated for OpenAI's."""
