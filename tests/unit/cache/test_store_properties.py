"""Whatever happens to a cache, it returns what was put last under a key, or nothing."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.cache.backends.base import Selection, Store
from proxy.cache.backends.memory import MemoryStore
from proxy.cache.backends.node import NodeStore
from proxy.cache.entry import CachedResponse
from proxy.cache.key import CacheKey
from proxy.cache.response_cache import ResponseCache
from tests.support.cached_responses import NOW, cache_key, cached_response
from tests.support.clock import Clock

SIZE = 1024 * 1024
STALE = 30.0
NAMES = st.sampled_from([f"name {number}" for number in range(12)])
SCOPES = st.sampled_from(["p1", "p1:t1", "p1:t2", "p2"])
TARGETS = st.sampled_from(["/v1/models", "/v1/models/a", "/v1/chat/completions"])
METHODS = st.sampled_from(["GET", "POST"])
SIZES = st.sampled_from([0, 10, 1500, 3000, 20_000])


class CacheMachine(RuleBasedStateMachine):
    """A cache beside a dictionary that forgets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(NOW)
        self.store = self.make()
        self.store.start()
        self.cache = ResponseCache(
            self.store, max_entry=SIZE, stale=STALE, clock=self.clock, jitter=lambda: 0.0
        )
        self.put: dict[CacheKey, CachedResponse] = {}
        self.records: dict[str, tuple[bytes, float]] = {}
        self.number = 0

    def make(self) -> Store:
        raise NotImplementedError

    @rule(
        name=NAMES,
        scope=SCOPES,
        method=METHODS,
        path=TARGETS,
        size=SIZES,
        ttl=st.sampled_from([5, 60]),
    )
    def put_response(
        self, name: str, scope: str, method: str, path: str, size: int, ttl: int
    ) -> None:
        self.number += 1
        body = (b"%d " % self.number) * size
        response = cached_response(
            body[:size],
            ttl=ttl,
            scope=scope,
            method=method,
            target=path,
            stored_at=self.clock.now,
            model=str(self.number),
        )
        key = cache_key(name, scope)
        self.cache.put(key, response)
        assert self.cache.flush(20)
        self.put[key] = response

    @rule(name=NAMES, scope=SCOPES, stale=st.booleans())
    def get_response(self, name: str, scope: str, stale: bool) -> None:
        key = cache_key(name, scope)
        found = self.cache.get(key, allow_stale=stale)
        expected = self.put.get(key)
        if found is not None:
            assert found == expected
            assert found.scope == scope
            assert found.expires_at + (STALE if stale else 0) > self.clock.now

    @rule(name=NAMES, scope=SCOPES, other=SCOPES)
    def ask_for_the_digest_of_another_scope(self, name: str, scope: str, other: str) -> None:
        if scope != other:
            digest = cache_key(name, scope).digest
            assert self.cache.get(CacheKey(other, digest), allow_stale=True) is None

    @rule(seconds=st.sampled_from([1, 10, 70]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(scope=SCOPES, path=TARGETS)
    def purge_a_target(self, scope: str, path: str) -> None:
        hit = {
            key
            for key, response in self.put.items()
            if scope in (key.scope, key.scope.partition(":")[0])
            and response.target == path
            and self.cache.get(key, allow_stale=True) is not None
        }
        assert self.cache.purge(Selection(scope=scope, target=path)) == len(hit)
        for key, response in list(self.put.items()):
            inside = scope in (key.scope, key.scope.partition(":")[0])
            if inside and response.target == path:
                del self.put[key]
                assert self.cache.get(key, allow_stale=True) is None

    @rule(scope=SCOPES, path=TARGETS)
    def forget(self, scope: str, path: str) -> None:
        self.cache.forget(scope, path)
        assert self.cache.flush(20)
        for key, response in list(self.put.items()):
            same = key.scope.partition(":")[0] == scope.partition(":")[0]
            if same and (response.method, response.target) == ("GET", path):
                del self.put[key]
                assert self.cache.get(key, allow_stale=True) is None

    @rule(name=NAMES, ttl=st.sampled_from([5, 60]))
    def claim(self, name: str, ttl: int) -> None:
        self.number += 1
        value = b"%d" % self.number
        held = self.records.get(name)
        if held is not None and held[1] <= self.clock.now:
            held = None
        assert self.cache.records.claim(name, value, ttl) == (None if held is None else held[0])
        if held is None:
            self.records[name] = value, self.clock.now + ttl

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.records)))
        value, until = self.records[name]
        assert not self.cache.records.delete_record(name, expected=b"another's")
        assert self.cache.records.delete_record(name, expected=value) == (until > self.clock.now)
        del self.records[name]

    @invariant()
    def it_is_bounded(self) -> None:
        figures = self.store.figures()
        assert figures.bytes <= figures.limit
        assert figures.items <= len(NAMES_AND_SCOPES)

    def teardown(self) -> None:
        self.cache.close(20)


NAMES_AND_SCOPES = [(name, scope) for name in range(12) for scope in range(4)]


class MemoryMachine(CacheMachine):
    def make(self) -> Store:
        return MemoryStore(SIZE, clock=self.clock)


class NodeMachine(CacheMachine):
    def make(self) -> Store:
        self.folder = Path(tempfile.mkdtemp(prefix="cache-"))
        return NodeStore(self.folder, bytes(32), size=SIZE, clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


TestMemory = MemoryMachine.TestCase
TestNode = NodeMachine.TestCase
TestMemory.settings = settings(max_examples=40, stateful_step_count=40)
TestNode.settings = settings(max_examples=40, stateful_step_count=40)
