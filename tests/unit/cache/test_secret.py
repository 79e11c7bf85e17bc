"""The secret of the cache's keys: read when it is needed, and without it nothing is cached."""

import logging

import gevent
import pytest

from proxy.cache.secret import CacheSecret
from proxy.core.errors import CipherError, StoreError
from tests.support.clock import Clock

SECRET = bytes(range(32))


class Source:
    def __init__(self, *results: bytes | Exception) -> None:
        self.results = list(results)
        self.reads = 0
        self.gate: gevent.event.Event | None = None

    def __call__(self) -> bytes:
        self.reads += 1
        if self.gate is not None:
            self.gate.wait(20)
        found = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(found, Exception):
            raise found
        return found


def test_it_is_read_when_it_is_needed_and_kept() -> None:
    source = Source(SECRET)
    secret = CacheSecret(source)
    assert source.reads == 0
    assert [secret.get(), secret.get()] == [SECRET, SECRET]
    assert source.reads == 1


@pytest.mark.parametrize(
    "error", [StoreError(), CipherError("under another key"), OSError(28, "full"), ValueError("5")]
)
def test_while_it_cannot_be_read_there_is_none(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    source = Source(error, error, SECRET)
    secret = CacheSecret(source, clock=clock)
    with caplog.at_level(logging.WARNING):
        assert [secret.get(), secret.get()] == [None, None]
        assert source.reads == 1, "it is not asked for at each request"
        clock.now += 5
        assert secret.get() is None
        clock.now += 5
        assert secret.get() == SECRET
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("response cache: its secret cannot be read, so nothing is cached: ")
    assert said[1] == "response cache: works again"
    assert SECRET.hex() not in str(said)


def test_requests_that_need_it_at_once_read_it_once() -> None:
    source = Source(SECRET)
    source.gate = gevent.event.Event()
    secret = CacheSecret(source)
    waiting = [gevent.spawn(secret.get) for _ in range(5)]
    gevent.sleep(0)
    gone = waiting.pop(0)
    gone.kill()
    source.gate.set()
    gevent.joinall(waiting, timeout=20, raise_error=True)
    assert [one.value for one in waiting] == [SECRET] * 4
    assert source.reads == 1
