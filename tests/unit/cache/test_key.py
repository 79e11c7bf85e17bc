"""Cache keys: what is part of them, and what is not."""

from proxy.cache.access import CacheAccess
from proxy.cache.key import KeyMaker
from proxy.providers.base import OutboundRequest

MAKER = KeyMaker(b"s" * 32)
ACCESS = CacheAccess(mode="on", scope="p", project_id="p", epoch=3)
REQUEST = OutboundRequest(
    "POST", b"/v1/chat/completions", [("Content-Type", "application/json")], b"{}"
)


def test_the_name_is_the_beginning_of_the_digest() -> None:
    key = MAKER.key(ACCESS, REQUEST, "u")
    assert len(key.digest) == 32
    assert key.name == key.digest.hex()[:16]
    assert key == MAKER.key(ACCESS, REQUEST, "u")
