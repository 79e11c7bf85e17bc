"""Responses and keys for the tests of the cache."""

import hashlib
from typing import Any

from proxy.cache.entry import CachedResponse
from proxy.cache.key import CacheKey

NOW = 1_800_000_000.0


def cache_key(name: str, scope: str = "project-1") -> CacheKey:
    """The key of a name within a scope. Other scopes have other digests, as in the product."""
    return CacheKey(scope, hashlib.sha256(f"{scope}\0{name}".encode()).digest())


def cached_response(body: bytes = b"{}", *, ttl: float = 300.0, **changes: Any) -> CachedResponse:
    facts: dict[str, Any] = {
        "scope": "project-1",
        "method": "POST",
        "target": "/v1/chat/completions",
        "status": 200,
        "reason": "OK",
        "headers": [("Content-Type", "application/json")],
        "body": body,
        "chunk_sizes": tuple(len(body[at : at + 65536]) for at in range(0, len(body), 65536)),
        "stored_at": NOW,
        "provider": None,
        "model": None,
        "prompt_tokens": None,
        "completion_tokens": None,
    }
    facts |= changes
    facts.setdefault("expires_at", facts["stored_at"] + ttl)
    return CachedResponse(**facts)
