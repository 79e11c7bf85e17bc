"""What :class:`proxy.cache.backends.node.NodeStore` writes: sealed, under keys that tell nothing.

A value is bound to its key, its scope or name, and its times; a label to its key. Scopes and
targets appear in keys as short keyed hashes, *tags*.
"""

from collections.abc import Callable
from hashlib import blake2b

import orjson

from proxy.cache.backends.base import Item, Selection
from proxy.cache.backends.node_tables import HEAD, NO_TAGS, TAG_BYTES, Sealed
from proxy.cache.key import CacheKey
from proxy.core.errors import CipherError
from proxy.crypto.sealer import Sealer


class NodeSealing:
    """Makes and opens what the file holds, with the secret of the installation.

    The methods that open raise CipherError for what was changed, cut or swapped.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float]) -> None:
        self._sealer = Sealer(secret, "cached response of a node")
        self._tag_key = blake2b(secret, digest_size=32, person=b"cache tags").digest()
        self._clock = clock

    def entry(self, item: Item) -> Sealed:
        key, response = item.key, item.response
        head = HEAD.pack(response.expires_at, item.kept_until)
        value = head + self._sealer.seal(item.data, _entry_place(key, head))
        parts = (key.scope.partition(":")[0], key.scope, response.target)
        tags = b"".join(self._tag(part) for part in parts)
        label = orjson.dumps((key.scope, response.method, response.target))
        return Sealed(
            key.digest,
            value,
            tags,
            self._sealer.seal(label, b"label" + tags + key.digest),
            response.stored_at,
            response.expires_at,
            item.kept_until,
        )

    def open_entry(self, key: CacheKey, value: memoryview) -> bytes:
        head = bytes(value[: HEAD.size])
        return self._sealer.open(value[HEAD.size :], _entry_place(key, head))

    def record(self, name: str, value: bytes, ttl: float) -> Sealed:
        now = self._clock()
        head = HEAD.pack(now + ttl, now + ttl)
        sealed = self._sealer.seal(value, _record_place(name, head))
        digest = self.record_digest(name)
        return Sealed(digest, head + sealed, NO_TAGS, b"", now, now + ttl, now + ttl)

    def record_digest(self, name: str) -> bytes:
        return blake2b(name.encode(), digest_size=32, key=self._tag_key, person=b"record").digest()

    def open_record(self, name: str, value: bytes) -> bytes:
        return self._sealer.open(value[HEAD.size :], _record_place(name, value[: HEAD.size]))

    def open_label(self, key: bytes, label: bytes) -> tuple[str, str, str] | None:
        """Return scope, method and target; None for a damaged label."""
        try:
            scope, method, target = orjson.loads(self._sealer.open(label, b"label" + key))
        except CipherError:
            return None
        return scope, method, target

    def tags_of(self, selection: Selection) -> bytes:
        """Return what the tags of all selected entries begin with."""
        scope, target = selection.scope, selection.target
        if scope is None:
            return b""
        project = scope.partition(":")[0]
        if project == scope:
            return self._tag(project)
        tags = self._tag(project) + self._tag(scope)
        return tags if target is None else tags + self._tag(target)

    def _tag(self, text: str) -> bytes:
        return blake2b(text.encode(), digest_size=TAG_BYTES, key=self._tag_key).digest()


def _entry_place(key: CacheKey, head: bytes) -> bytes:
    return b"".join((b"entry", head, key.digest, key.scope.encode()))


def _record_place(name: str, head: bytes) -> bytes:
    return b"".join((b"record", head, name.encode()))
