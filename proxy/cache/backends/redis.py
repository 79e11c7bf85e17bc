"""The second tier: a Redis that all nodes share, only where `CACHE_URL` names one.

A look-up is one `GET` with 50 ms for all of it, since a request waits for it. A Redis that fails is
left alone for a pause that grows; meanwhile every look-up is a miss. What is stored is written by a
greenlet, after the response has ended.

Keys, where `{…}` are the braces by which a Redis cluster places keys::

    op:c:{scope}:<digest in hex>   string   a response, see below
    op:ci:{scope}                  zset     `METHOD target digest` → when it expires
    op:cs                          zset     scope → when its last entry expires
    op:r:{<hash of the name>}      string   16 bytes of a tag of the value · the sealed value

The index serves purges, so that the whole of the keys is never looked through. A response is::

    4 bytes `OPC1` · u8 1 if deflated · f64 expires · f64 kept until · sealed

It is sealed for its whole key: who can write to that Redis can neither change a response nor put it
under another key. Everything has a time to live.

Note: records are not pinned here. A Redis that evicts (`maxmemory-policy` other than `noeviction`)
may drop a claim early.
"""

import hashlib
import logging
import math
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import gevent
from gevent.event import Event
from redis import RedisError
from redis.exceptions import NoScriptError, ResponseError

from proxy.cache.backends.base import (
    Counts,
    Item,
    Selection,
    StoreFigures,
    purge_incomplete,
    records_full,
    records_unavailable,
)
from proxy.cache.backends.redis_calls import (
    DEADLINES,
    Command,
    Deadlines,
    Paused,
    RedisCalls,
    kind_of,
)
from proxy.cache.key import CacheKey
from proxy.core.errors import CipherError
from proxy.crypto.sealer import Sealer
from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

_MAGIC: Final = b"OPC1"
_HEAD: Final = struct.Struct("<4sBdd")
_DEFLATED: Final = 1
_SCOPES: Final = "op:cs"

#: Bodies from which on deflating pays, and bytes from which on a thread does it.
_MIN_DEFLATED: Final = 2 * 1024
_THREAD_BYTES: Final = 256 * 1024
#: Deflated bytes that may be so many plain ones.
_THREAD_DEFLATED: Final = 48 * 1024
_LEVEL: Final = 1

_MAX_WAITING: Final = 512
_MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
#: Writes after which what has expired is taken out of the index.
_TRIM_EVERY: Final = 64
#: Members of an index that are read, and keys that are deleted, in one call.
_PAGE: Final = 1000
_DELETED_BATCH: Final = 200
_TAG_BYTES: Final = 16

_SCRIPT: Final = """
local held = redis.call('GET', KEYS[1])
if ARGV[1] == 'claim' and held then return held end
if ARGV[2] ~= '' and (not held or string.sub(held, 1, 16) ~= ARGV[2]) then return 0 end
if ARGV[1] == 'delete' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
"""
# The name that Redis gives to the script.
_SHA: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class RedisStore:
    """See :class:`proxy.cache.backends.base.Store`. Many greenlets may use it at once.

    Args:
        secret: Of the installation; what is stored can be read with it alone.
        max_ttl: Seconds for which anything is kept at most.
    """

    def __init__(
        self,
        url: str,
        secret: bytes,
        *,
        max_ttl: float,
        deadlines: Deadlines = DEADLINES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`url`: as in `CACHE_URL`. The first call connects."""
        self._call = RedisCalls(url, deadlines)
        self._sealer = Sealer(secret, "cached response in Redis")
        self._tag_key = blake2b(secret, digest_size=32, person=b"redis tags").digest()
        self._max_ttl = max_ttl
        self._deadlines = deadlines
        self._clock = clock
        self.counts = Counts()
        self._hits = self._misses = 0
        self._writes = 0
        # What waits to be written, each with its bytes.
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()
        self._waiting_bytes = 0
        self._idle = Event()
        self._idle.set()
        self._writer = PeriodicTask(
            self._write,
            lambda: math.inf,
            failure="response cache: a write to Redis failed",
            log=_log,
        )

    def start(self) -> None:
        self._writer.start()

    def close(self, deadline: float) -> None:
        self.flush(deadline)
        self._writer.kill()
        self._call.close()

    def flush(self, seconds: float) -> bool:
        return bool(self._idle.wait(seconds))

    # Entries.

    def get(self, key: CacheKey, *, stale: bool = False) -> bytes | None:
        found = None
        name = _entry_name(key)
        try:
            value = self._call([("GET", name)], self._deadlines.lookup)[0]
            if value is not None:
                found = self._opened(value, name, stale)
        except (RedisError, OSError) as error:
            self._count(error)
        except (CipherError, struct.error, zlib.error, ValueError):
            self.counts.errors["unreadable"] += 1
        if found is None:
            self._misses += 1
        else:
            self._hits += 1
        return found

    def put(self, item: Item) -> None:
        self._later(partial(self._put, item), len(item.response.body))

    def delete(self, key: CacheKey) -> None:
        self._later(lambda: self._change([("DEL", _entry_name(key))]))

    def forget(self, scope: str, target: str) -> None:
        selection = Selection(scope=scope, method="GET", target=target)

        def forget() -> None:
            self._delete_selected(selection)

        self._later(forget)

    def purge(self, selection: Selection) -> set[bytes]:
        try:
            return self._delete_selected(selection)
        except (RedisError, OSError) as error:
            self._count(error)
            raise purge_incomplete("The Redis of the response cache") from error

    def figures(self) -> StoreFigures:
        """Return the figures. `bytes` and `limit` are 0: that Redis may hold other things."""
        items = 0
        try:
            names = [_index_name(scope) for scope in self._scopes(Selection())]
            for batch in _batches(names, _DELETED_BATCH):
                counted = self._call([("ZCARD", name) for name in batch], self._deadlines.write)
                items += sum(count for count in counted if isinstance(count, int))
        except (RedisError, OSError) as error:
            self._count(error)
        return StoreFigures(
            items=items,
            hits=self._hits,
            misses=self._misses,
            rejected=dict(self.counts.rejected),
        )

    # Records.

    def claim(self, name: str, value: bytes, ttl: float) -> bytes | None:
        held = self._record("claim", name, value, ttl)
        return None if held == 1 else self._opened_record(name, held)

    def get_record(self, name: str) -> bytes | None:
        key = self._record_name(name)
        try:
            held = self._call([("GET", key)], self._deadlines.record)[0]
        except (RedisError, OSError) as error:
            self._count(error)
            raise records_unavailable() from error
        return None if held is None else self._opened_record(name, held)

    def put_record(
        self,
        name: str,
        value: bytes,
        ttl: float,
        *,
        expected: bytes | None = None,
        pinned: bool = False,
    ) -> bool:
        return bool(self._record("put", name, value, ttl, expected) == 1)

    def delete_record(self, name: str, *, expected: bytes | None = None) -> bool:
        return bool(self._record("delete", name, b"", 0, expected) == 1)

    def _record(
        self, action: str, name: str, value: bytes, ttl: float, expected: bytes | None = None
    ) -> Any:
        key = self._record_name(name)
        sealed = self._tag(value) + self._sealer.seal(value, key.encode())
        tag = b"" if expected is None else self._tag(expected)
        arguments = (1, key, action, tag, sealed, max(1, int(ttl * 1000)))
        try:
            try:
                return self._call([("EVALSHA", _SHA, *arguments)], self._deadlines.record)[0]
            except NoScriptError:  # the server was restarted, or flushed its scripts
                return self._call([("EVAL", _SCRIPT, *arguments)], self._deadlines.record)[0]
        except (RedisError, OSError) as error:
            if self._count(error) == "full":
                raise records_full() from error
            raise records_unavailable() from error

    def _opened_record(self, name: str, held: bytes) -> bytes:
        try:
            return self._sealer.open(held[_TAG_BYTES:], self._record_name(name).encode())
        except (CipherError, TypeError) as error:
            self.counts.errors["unreadable"] += 1
            raise records_unavailable() from error

    def _record_name(self, name: str) -> str:
        hashed = blake2b(name.encode(), digest_size=32, key=self._tag_key, person=b"record")
        return f"op:r:{{{hashed.hexdigest()}}}"

    def _tag(self, value: bytes) -> bytes:
        return blake2b(value, digest_size=_TAG_BYTES, key=self._tag_key).digest()

    # The form of a value.

    def _value(self, item: Item, name: str) -> bytes:
        data, flags = item.data, 0
        response = item.response
        encoded = any(line[0].lower() == "content-encoding" for line in response.headers)
        if len(response.body) >= _MIN_DEFLATED and not encoded:
            data, flags = zlib.compress(data, _LEVEL), _DEFLATED
        head = _HEAD.pack(_MAGIC, flags, response.expires_at, item.kept_until)
        return head + self._sealer.seal(data, head + name.encode())

    def _opened(self, value: bytes, name: str, stale: bool) -> bytes | None:
        magic, flags, expires_at, kept_until = _HEAD.unpack_from(value)
        if magic != _MAGIC:
            raise ValueError("it does not begin as one")
        if (kept_until if stale else expires_at) <= self._clock():
            return None
        head = value[: _HEAD.size]
        plain = self._sealer.open(memoryview(value)[_HEAD.size :], head + name.encode())
        if flags != _DEFLATED:
            return plain
        if len(plain) <= _THREAD_DEFLATED:
            return zlib.decompress(plain)
        inflated: bytes = gevent.get_hub().threadpool.apply(zlib.decompress, (plain,))
        return inflated

    # Writing, beside the path of requests.

    def _later(self, work: Callable[[], None], size: int = 0) -> None:
        if len(self._waiting) >= _MAX_WAITING or self._waiting_bytes + size > _MAX_WAITING_BYTES:
            self.counts.rejected["shared_queue_full"] += 1
            return
        self._waiting.append((work, size))
        self._waiting_bytes += size
        self._idle.clear()
        self._writer.wake()

    def _write(self) -> None:
        try:
            while self._waiting:
                work, size = self._waiting.popleft()
                try:
                    work()
                except (RedisError, OSError) as error:
                    kind = self._count(error)
                    self.counts.rejected[f"shared_{kind}"] += 1
                finally:
                    self._waiting_bytes -= size
        finally:
            if not self._waiting:
                self._idle.set()

    def _put(self, item: Item) -> None:
        ttl = int((item.kept_until - self._clock()) * 1000)
        if ttl <= 0:
            return
        if self._call.pauses:
            raise Paused("Redis failed a moment ago")
        key, response = item.key, item.response
        name, index = _entry_name(key), _index_name(key.scope)
        if len(response.body) > _THREAD_BYTES:
            value = gevent.get_hub().threadpool.apply(self._value, (item, name))
        else:
            value = self._value(item, name)
        # The index is written first: what is not in it would be missed by a purge.
        longest = int(max(self._max_ttl * 1000, ttl))
        commands: list[Command] = [
            ("ZADD", _SCOPES, item.kept_until, key.scope),
            ("PEXPIRE", _SCOPES, longest),
            ("MULTI",),
            ("ZADD", index, item.kept_until, _member(response.method, response.target, key.digest)),
            ("PEXPIRE", index, longest),
            ("SET", name, value, "PX", ttl),
            ("EXEC",),
        ]
        self._writes += 1
        if self._writes % _TRIM_EVERY == 0:
            now = self._clock()
            commands += [("ZREMRANGEBYSCORE", each, "-inf", now) for each in (index, _SCOPES)]
        self._change(commands, undo=("DEL", name))

    def _change(self, commands: Sequence[Command], undo: Command | None = None) -> None:
        """Run commands, none of which may fail. `undo` is run if one does."""
        replies = self._call(commands, self._deadlines.write, errors=True)
        for reply in _flat(replies):
            if isinstance(reply, ResponseError):
                if undo is not None:
                    self._call([undo], self._deadlines.write)
                raise reply

    def _delete_selected(self, selection: Selection) -> set[bytes]:
        deleted: set[bytes] = set()
        for scope in self._scopes(selection):
            found = [each for each in self._members(scope) if each.is_in(selection)]
            for batch in _batches(found, _DELETED_BATCH):
                commands: list[Command] = [
                    ("DEL", _entry_name(CacheKey(scope, each.digest))) for each in batch
                ]
                commands.append(("ZREM", _index_name(scope), *(each.member for each in batch)))
                replies = self._call(commands, self._deadlines.write)
                now = self._clock()
                deleted.update(
                    each.digest
                    for each, reply in zip(batch, replies, strict=False)
                    if reply and each.kept_until > now
                )
        return deleted

    def _scopes(self, selection: Selection) -> list[str]:
        wanted = set() if selection.scope is None else {selection.scope}
        for member, _ in self._pages(_SCOPES):
            scope = member.decode()
            if selection.has_scope(scope):
                wanted.add(scope)
        return sorted(wanted)

    def _members(self, scope: str) -> "Iterable[_Indexed]":
        for member, kept_until in self._pages(_index_name(scope)):
            try:
                yield _Indexed(member, kept_until)
            except ValueError:
                self.counts.errors["unreadable"] += 1

    def _pages(self, name: str) -> list[tuple[bytes, float]]:
        """Return all members of a sorted set, with their scores."""
        found: list[tuple[bytes, float]] = []
        while True:
            start = len(found)
            command: Command = ("ZRANGE", name, start, start + _PAGE - 1, "WITHSCORES")
            page = self._call([command], self._deadlines.write)[0]
            found += [(page[at], float(page[at + 1])) for at in range(0, len(page), 2)]
            if len(page) < 2 * _PAGE:
                return found

    def _count(self, error: Exception) -> str:
        kind = kind_of(error)
        self.counts.errors[kind] += 1
        return kind


class _Indexed:
    """A member of an index. Raises ValueError for what is none."""

    def __init__(self, member: bytes, kept_until: float) -> None:
        self.member = member
        self.kept_until = kept_until
        text, _, digest = member.decode("utf-8", "surrogateescape").rpartition(" ")
        self._method, _, self._target = text.partition(" ")
        self.digest = bytes.fromhex(digest)

    def is_in(self, selection: Selection) -> bool:
        return selection.matches(self.digest, self._method, self._target)


def _entry_name(key: CacheKey) -> str:
    return f"op:c:{{{key.scope}}}:{key.digest.hex()}"


def _index_name(scope: str) -> str:
    return f"op:ci:{{{scope}}}"


def _member(method: str, target: str, digest: bytes) -> bytes:
    return f"{method} {target} {digest.hex()}".encode("utf-8", "surrogateescape")


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _flat(replies: Iterable[Any]) -> Iterable[Any]:
    for reply in replies:
        if isinstance(reply, list):
            yield from reply
        else:
            yield reply
