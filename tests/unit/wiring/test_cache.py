"""The response cache that a worker gets."""

import time
from pathlib import Path

import pytest

from proxy.cache.backends.redis import RedisStore
from proxy.wiring.cache import FOLDER, response_cache
from tests.support.cached_responses import cache_key, cached_response
from tests.support.installation import settings


def test_it_has_the_bounds_of_the_settings(tmp_path: Path) -> None:
    chosen = settings(
        tmp_path,
        CACHE_TTL="60",
        MAX_CACHE_SIZE="20",
        CACHE_MAX_ENTRY="10KiB",
        CACHE_STALE_IF_ERROR="30",
    )
    cache = response_cache(chosen, bytes(32))
    assert not (chosen.data_dir / FOLDER).exists()
    cache.start()
    now = time.time()
    cache.put(cache_key("a"), cached_response(b"x" * 9000, stored_at=now))
    cache.put(cache_key("b"), cached_response(b"x" * 11_000, stored_at=now))
    cache.put(cache_key("c"), cached_response(stored_at=now - 40, ttl=20))
    assert cache.flush(20)
    assert cache.get(cache_key("a")) is not None
    assert cache.get(cache_key("b")) is None
    assert cache.get(cache_key("c")) is None
    assert cache.get(cache_key("c"), allow_stale=True) is not None
    figures = cache.figures().node
    assert 19_900_000 < figures.limit <= 20 * 1024 * 1024
    assert figures.rejected == {"too_large": 1}
    cache.close(20)
    assert list((chosen.data_dir / FOLDER).glob("*/data.mdb"))


@pytest.mark.parametrize(
    ("changes", "has_second_tier"),
    [
        ({}, False),
        # Bodies go only where they were sent on purpose.
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, False),
        ({"CACHE_URL": "redis://127.0.0.1:1/0"}, True),
    ],
)
def test_only_cache_url_names_a_second_tier(
    tmp_path: Path, changes: dict[str, str], has_second_tier: bool
) -> None:
    cache = response_cache(settings(tmp_path, CACHE_TTL="60", **changes), bytes(32))
    assert isinstance(cache._shared, RedisStore) == has_second_tier
    assert (cache.records is cache._shared) == has_second_tier
