"""The response cache of a worker, made of the settings."""

from typing import Final

from proxy.cache.backends.base import Store
from proxy.cache.backends.node import NodeStore
from proxy.cache.response_cache import ResponseCache
from proxy.settings.settings import Settings

#: Below `DATA_DIR`: the store that the workers of the node share.
FOLDER: Final = "cache"


def response_cache(settings: Settings, secret: bytes) -> ResponseCache:
    """Return the cache of one worker. Nothing is opened before its `start`."""
    options = settings.cache
    return ResponseCache(
        NodeStore(settings.data_dir.absolute() / FOLDER, secret, size=options.max_bytes),
        _shared_store(settings, secret),
        max_entry=options.max_entry_bytes,
        stale=options.stale_if_error,
    )


def _shared_store(settings: Settings, secret: bytes) -> Store | None:
    options = settings.cache
    if not options.url:
        return None
    # Loaded only where there is a Redis.
    from proxy.cache.backends.redis import RedisStore

    return RedisStore(options.url, secret, max_ttl=options.ttl + options.stale_if_error)
