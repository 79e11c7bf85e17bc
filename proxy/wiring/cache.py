"""The response cache of a worker, made of the settings."""

from typing import Final

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
        max_entry=options.max_entry_bytes,
        stale=options.stale_if_error,
    )
