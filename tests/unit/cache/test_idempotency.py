"""The records of idempotency keys: a request is sent once, whatever the order of its retries."""

import hashlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.cache.backends.base import RecordsFull, RecordsUnavailable, records_unavailable
from proxy.cache.backends.memory import MemoryStore
from proxy.cache.idempotency import (
    LEASE_SECONDS,
    Idempotency,
    KeyedRequest,
    is_cut,
    is_final,
    key_of,
)
from proxy.core.errors import ClientError
from tests.support.cached_responses import cached_response
from tests.support.clock import Clock

TTL = 3600.0
SIZE = 4_000_000


def fingerprint(of: str = "request") -> bytes:
    return hashlib.sha256(of.encode()).digest()


class Workers:
    """Workers that share a store."""

    def __init__(self, size: int = SIZE) -> None:
        self.clock = Clock()
        self.store = MemoryStore(size, clock=self.clock)
        self.one = self.worker()
        self.other = self.worker()

    def worker(self) -> Idempotency:
        return Idempotency(self.store, ttl=TTL)


def asked(
    worker: Idempotency, key: str = "key", of: str = "request", token: str = "token-1"
) -> KeyedRequest:
    return worker.request("project-1", token, key, fingerprint(of))


def sent(worker: Idempotency, body: bytes = b"{}", **more: str) -> KeyedRequest:
    """A request whose response has come."""
    request = asked(worker, **more)
    assert request.find() is None
    assert request.begin()
    request.result = cached_response(body)
    return request


@pytest.fixture
def workers() -> Workers:
    return Workers()


# The key.


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("a", "a"),
        ("!~", "!~"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ('"a"', "a"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ('a"b', 'a"b'),
        ("k" * 255, "k" * 255),
        ('"' + "k" * 255 + '"', "k" * 255),
    ],
)
def test_a_key_is_bare_or_a_string(value: str, key: str) -> None:
    assert key_of(value) == key


@pytest.mark.parametrize(
    "value",
    [
        *("", '""', '"', '"a', '"a"b', '"a";p=1', '"a\\b"', '"\x00"'),
        *("a b", "a\t", "caf\xe9", "\x7f", "k" * 256, '"' + "k" * 256 + '"'),
    ],
)
def test_any_other_key_is_refused(value: str) -> None:
    with pytest.raises(ClientError, match=r"^$") as refused:
        key_of(value)
    assert refused.value.code == "invalid_idempotency_key"


# What is kept.


@pytest.mark.parametrize("status", [200, 201, 204, 299, 400, 403, 404, 413, 415, 422])
def test_a_final_status_is_kept(status: int) -> None:
    assert is_final(status)


@pytest.mark.parametrize("status", [302, 304, 401, 402, 408, 409, 425, 429, 500, 503, 529])
def test_a_passing_status_is_not(status: int) -> None:
    assert not is_final(status)


def stream(body: bytes, **changes: Any) -> Any:
    return cached_response(body, headers=[("Content-Type", "text/event-stream")], **changes)


CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


@pytest.mark.parametrize(
    "response",
    [
        stream(CHUNK),
        stream(CHUNK + b'data: {"error":{"message":"data: [DONE]"}}\n\ndata: [DONE]\n\n'),
        stream(
            b'event: response.created\ndata: {"type":"response.created"}\n\n',
            target="/v1/responses",
        ),
        stream(b'event: ping\ndata: {"type":"ping"}\n\n', target="/v1/messages?beta=true"),
        cached_response(b'{"error":{"message":"the model has gone"}}'),
    ],
)
def test_a_response_without_its_end_is_cut(response: Any) -> None:
    assert is_cut(response)


@pytest.mark.parametrize(
    "response",
    [
        # Ended in any way: it was paid for.
        stream(CHUNK + b"data: [DONE]\n\n"),
        stream(
            b'event: response.incomplete\ndata: {"type":"response.incomplete"}\n\n',
            target="/v1/responses",
        ),
        stream(b'event: message_stop\ndata: {"type":"message_stop"}\n\n', target="/v1/messages"),
        stream(b"data: 1\n\n", target="/v1/audio/speech"),
        cached_response(b'{"choices":[{"finish_reason":"content_filter","message":{}}]}'),
        cached_response(b'{"status":"incomplete","output":[]}', target="/v1/responses"),
        cached_response(b'{"error":{"code":null}}', target="/v1/fine_tuning/jobs"),
        cached_response(b'{"error":{"message":"bad"}}', status=400),
        cached_response(b"no JSON"),
    ],
)
def test_any_other_end_is_none_of_ours(response: Any) -> None:
    assert not is_cut(response)


# The states.


def test_the_first_result_is_found(workers: Workers) -> None:
    first = sent(workers.one, b'{"a":1}')
    assert first.will_be_kept()
    first.end(True)
    again = asked(workers.other)
    assert again.find() == cached_response(b'{"a":1}')
    assert (again.is_done, again.is_running) == (True, False)
    assert not again.begin()
    workers.clock.now += TTL
    assert asked(workers.other).find() is None


def test_a_running_request_is_known_and_not_begun_twice(workers: Workers) -> None:
    first = sent(workers.one)
    twin = asked(workers.other)
    assert twin.find() is None
    assert twin.is_running
    assert not twin.begin()
    twin.end(True)
    assert asked(workers.one).flight_key == first.flight_key
    first.end(True)
    assert twin.find() is not None
    assert not twin.is_running


def test_a_released_key_is_free(workers: Workers) -> None:
    first = sent(workers.one)
    first.end(False)
    first.end(True)  # too late
    again = asked(workers.other)
    assert again.find() is None
    assert not again.is_running
    assert again.begin()
    assert workers.one.states == Counter({"new": 1})
    assert workers.other.states == Counter({"new": 1})


@pytest.mark.parametrize("ended", [False, True])
def test_another_request_is_refused(workers: Workers, ended: bool) -> None:
    first = sent(workers.one)
    if ended:
        first.end(True)
    with pytest.raises(ClientError) as refused:
        asked(workers.other, of="other").find()
    assert refused.value.code == "idempotency_key_reused"
    assert workers.other.states == Counter({"reused": 1})
    assert asked(workers.one, of="other").flight_key != first.flight_key


def test_keys_belong_to_an_access_token(workers: Workers) -> None:
    sent(workers.one).end(True)
    assert asked(workers.one, token="token-2").find() is None
    assert asked(workers.one, key="other").find() is None


def test_a_claim_holds_while_it_is_renewed(workers: Workers) -> None:
    first = sent(workers.one)
    for _ in range(10):
        workers.clock.now += LEASE_SECONDS - 1
        workers.one.renew()
    assert not asked(workers.other).begin()
    first.end(True)
    workers.one.renew()
    assert asked(workers.other).find() is not None


def test_the_key_of_a_killed_worker_is_free_after_its_lease(workers: Workers) -> None:
    first = sent(workers.one)
    workers.clock.now += LEASE_SECONDS - 0.001
    assert not asked(workers.other).begin()
    workers.clock.now += 0.001
    second = sent(workers.other, b'{"second":1}')
    assert workers.other.states == Counter({"unknown_outcome": 1})
    # The first was not dead, only slow: it changes nothing any more.
    workers.one.renew()
    first.end(True)
    assert asked(workers.one).find() is None
    second.end(True)
    assert asked(workers.one).find() == cached_response(b'{"second":1}')


def test_a_result_that_is_too_large_is_lost(workers: Workers) -> None:
    first = asked(workers.one)
    assert first.begin()
    first.is_too_large = True
    assert first.will_be_kept()
    first.end(True)
    with pytest.raises(ClientError, match="too large") as refused:
        asked(workers.other).find()
    assert refused.value.code == "idempotency_key_reused"
    assert workers.one.states["not_kept"] == 1


def test_a_result_for_which_the_store_has_no_room_is_lost() -> None:
    workers = Workers(size=20_000)
    sent(workers.one, b"x" * 30_000).end(True)
    with pytest.raises(ClientError, match="too large"):
        asked(workers.other).find()


def test_a_response_that_is_cut_is_not_kept(workers: Workers) -> None:
    first = sent(workers.one)
    assert first.will_be_kept()
    first.result = stream(CHUNK)
    assert not first.will_be_kept()


def test_a_free_response_is_the_first_result_unless_there_is_one(workers: Workers) -> None:
    asked(workers.one).take_for_result(cached_response(b"first"))
    asked(workers.other).take_for_result(cached_response(b"second"))
    assert asked(workers.one).find() == cached_response(b"first")


def test_a_record_of_another_version_is_none(workers: Workers) -> None:
    first = sent(workers.one)
    first.end(True)
    (name,) = (each for each in workers.store._kept if "sent" not in each)
    record = workers.store.get_record(name) or b""
    assert workers.store.put_record(name, record[:40], TTL)
    again = asked(workers.other)
    assert again.find() is None
    assert again.begin()


# Failures.


class Away(MemoryStore):
    """A store that does not respond while `is_away`."""

    is_away = False

    def claim(self, name: str, value: bytes, ttl: float) -> bytes | None:
        self._check()
        found = super().claim(name, value, ttl)
        self._check()
        return found

    def get_record(self, name: str) -> bytes | None:
        self._check()
        return super().get_record(name)

    def _check(self) -> None:
        if self.is_away:
            raise records_unavailable()


def test_what_cannot_be_looked_up_or_claimed_is_not_sent() -> None:
    store = Away(SIZE)
    worker = Idempotency(store, ttl=TTL)
    store.is_away = True
    request = asked(worker)
    with pytest.raises(RecordsUnavailable):
        request.find()
    with pytest.raises(RecordsUnavailable):
        request.begin()
    request.end(False)
    store.is_away = False
    assert asked(worker).begin()


def test_a_claim_that_was_interrupted_is_released() -> None:
    class Interrupted(MemoryStore):
        once = True

        def claim(self, name: str, value: bytes, ttl: float) -> bytes | None:
            super().claim(name, value, ttl)
            if self.once:
                self.once = False
                raise KeyboardInterrupt
            return None

    worker = Idempotency(Interrupted(SIZE), ttl=TTL)
    request = asked(worker)
    with pytest.raises(KeyboardInterrupt):
        request.begin()
    request.end(False)
    assert asked(worker).find() is None


def test_claims_that_have_no_room_are_refused() -> None:
    workers = Workers(size=4_000)

    def fill() -> None:
        for number in range(100):
            asked(workers.one, key=str(number)).begin()

    with pytest.raises(RecordsFull) as full:
        fill()
    assert (full.value.status, full.value.code) == (503, "store_unavailable")


def test_a_result_that_cannot_be_written_leaves_the_lease(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = sent(workers.one)

    def away(*_: object, **__: object) -> bool:
        raise records_unavailable()

    with monkeypatch.context() as broken:
        broken.setattr(workers.store, "put_record", away)
        workers.one.renew()
        first.end(True)
    assert workers.one.states["not_kept"] == 1
    assert len(caplog.records) == 2
    assert not asked(workers.other).begin()
    workers.clock.now += LEASE_SECONDS
    assert asked(workers.other).begin()


# Any order.


class Orders(RuleBasedStateMachine):
    """One key, several workers, in any order: never two at once, and never two results."""

    def __init__(self) -> None:
        super().__init__()
        self.workers = Workers()
        #: Those that were sent, by the order of their sending; with the end of their lease.
        self.running: dict[KeyedRequest, float] = {}
        self.first: bytes | None = None
        self.sent = 0

    def _living(self) -> list[KeyedRequest]:
        now = self.workers.clock.now
        return [each for each, until in self.running.items() if until > now]

    @rule(of_one=st.booleans())
    def ask(self, of_one: bool) -> None:
        request = asked(self.workers.one if of_one else self.workers.other)
        found = request.find()
        if self.first is not None:
            assert found is not None
            assert found.body == self.first
            assert not request.begin()
            return
        assert found is None
        assert request.is_running == bool(self._living())
        if request.begin():
            assert not self._living()
            self.sent += 1
            request.result = cached_response(str(self.sent).encode())
            self.running[request] = self.workers.clock.now + LEASE_SECONDS

    @rule(data=st.data(), kept=st.booleans())
    def end(self, data: st.DataObject, kept: bool) -> None:
        if not self.running:
            return
        request = data.draw(st.sampled_from(list(self.running)))
        lives = request in self._living()
        del self.running[request]
        request.end(kept)
        if lives and kept:
            assert request.result is not None
            self.first = request.result.body

    @rule(of_one=st.booleans())
    def renew(self, of_one: bool) -> None:
        living = self._living()
        (self.workers.one if of_one else self.workers.other).renew()
        for each in living:
            if (each._owner is self.workers.one) == of_one:
                self.running[each] = self.workers.clock.now + LEASE_SECONDS

    @rule(seconds=st.sampled_from([1.0, 9.0, 20.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.workers.clock.now += seconds

    @invariant()
    def at_most_one_runs(self) -> None:
        assert len(self._living()) <= 1


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
