"""A response stream is settled once, whatever happens to it."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import requests
from gevent.event import Event

from proxy.core.errors import ClientError, ResponseBroken, UpstreamError, UpstreamTimeout
from proxy.gateway.inflight import Cancelled, ClientDisconnected, ShuttingDown
from proxy.gateway.response_stream import Outcome, ResponseStream
from proxy.providers.base import OutboundRequest, PreparedCall
from proxy.runtime import yielding
from proxy.runtime.yielding import STEP
from proxy.upstream.adapter import UpstreamAdapter
from proxy.upstream.timing import Timing
from proxy.upstream.transport import SessionTransport, UpstreamResponse
from tests.support.loop_probe import served_while
from tests.support.scripted_upstream import Script, Seen, no_event
from tests.support.wait import wait_until
from tests.support.wire_requests import Serve
from tests.support.wire_server import CHUNKED, OK, Connection


def make(
    upstream: Any, seen: Seen, closing_event: Callable[[Cancelled], bytes] = no_event
) -> ResponseStream:
    return ResponseStream(
        upstream, Timing(), [seen], closing_event=closing_event, on_close=seen.closing(upstream)
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_whole_response(known: bool) -> None:
    upstream, seen = Script(b"ab", b"c", known=known), Seen()
    stream = make(upstream, seen)
    assert iter(stream) is stream
    assert list(stream) == [b"", b"ab", b"c"]
    assert list(stream) == []
    assert seen.ends == []
    stream.close()
    stream.close()
    assert seen.ends == [(Outcome.COMPLETED, None, 3)]
    assert seen.chunks == [b"ab", b"c"]
    assert seen.finished == [True]
    assert upstream.closed == 1
    if known:
        assert upstream.reads == 2  # its end took no read of its own


@pytest.mark.parametrize("known", [True, False])
def test_an_empty_response(known: bool) -> None:
    upstream, seen = Script(known=known), Seen()
    stream = make(upstream, seen)
    assert list(stream) == [b""]
    stream.close()
    assert seen.ends == [(Outcome.COMPLETED, None, 0)]
    assert seen.chunks == []


def test_the_head_does_not_wait_for_the_body() -> None:
    upstream = Script(b"a")
    assert next(make(upstream, Seen())) == b""
    assert upstream.reads == 0


@pytest.mark.parametrize("steps", [0, 1])
def test_never_started_or_left_at_once(steps: int) -> None:
    """HEAD, or a client that left before its first byte: a generator's `finally` would not run."""
    upstream, seen = Script(b"a"), Seen()
    stream = make(upstream, seen)
    for _ in range(steps):
        next(stream)
    stream.close()
    stream.close()
    assert upstream.closed == 1
    assert seen.ends == [(Outcome.CLIENT_GONE, None, 0)]


def test_started_and_left() -> None:
    upstream, seen = Script(b"a", b"b", b"c"), Seen()
    stream = make(upstream, seen)
    assert [next(stream) for _ in range(3)] == [b"", b"a", b"b"]
    assert seen.chunks == [b"a"]  # the second is out with the client
    stream.close()
    assert seen.chunks == [b"a", b"b"]
    assert seen.ends == [(Outcome.CLIENT_GONE, None, 2)]


def test_a_client_that_leaves_before_the_last_chunk_is_written() -> None:
    """That it was known to be the last does not complete it."""
    seen = Seen()
    stream = make(Script(b"a", known=True), seen)
    assert [next(stream) for _ in range(2)] == [b"", b"a"]
    stream.close()
    assert seen.ends == [(Outcome.CLIENT_GONE, None, 1)]


def test_chunks_go_out_before_they_are_metered() -> None:
    seen = Seen()
    fed_before = [(chunk, list(seen.chunks)) for chunk in make(Script(b"a", b"b"), seen)]
    assert fed_before == [(b"", []), (b"a", []), (b"b", [b"a"])]


@pytest.mark.parametrize(
    ("error", "code"),
    [(ResponseBroken("cut"), "upstream_broken"), (UpstreamTimeout(), "upstream_timeout")],
)
def test_an_upstream_that_breaks_off(error: UpstreamError, code: str) -> None:
    upstream, seen = Script(b"a", error), Seen()
    stream = make(upstream, seen, closing_event=lambda interruption: b"never asked for")
    assert [next(stream) for _ in range(2)] == [b"", b"a"]
    with pytest.raises(ConnectionResetError) as caught:
        next(stream)
    assert caught.value.__cause__ is error
    stream.close()
    assert upstream.closed == 1
    assert seen.chunks == [b"a"]
    assert seen.ends == [(Outcome.ABORTED, code, 1)]


_STOP = b'event: message_stop\ndata: {"type":"message_stop" }\n\n'


@pytest.mark.parametrize(
    ("last", "error", "outcome"),
    [
        (b"data: {}\n\ndata: [DONE]\n\n", None, Outcome.COMPLETED),
        (b"data: [DONE]\r\n\r\n", ClientDisconnected(), Outcome.COMPLETED),
        (b"data: {}\n\n", ClientDisconnected(), Outcome.CLIENT_GONE),
        # Anthropic's stream.
        (_STOP, ClientDisconnected(), Outcome.COMPLETED),
        (b"event: ping\ndata: {}\n\n" + _STOP, ClientDisconnected(), Outcome.COMPLETED),
        (_STOP.replace(b"\n", b"\r\n"), ClientDisconnected(), Outcome.COMPLETED),
        (_STOP[:-1], ClientDisconnected(), Outcome.CLIENT_GONE),
        (_STOP + b"event: x\ndata: {}\n\n", ClientDisconnected(), Outcome.CLIENT_GONE),
        # The write itself has failed: the client does not have it.
        (b"data: [DONE]\n\n", BrokenPipeError(), Outcome.CLIENT_GONE),
    ],
)
def test_a_client_that_leaves_with_the_last_event_has_all(
    last: bytes, error: BaseException | None, outcome: Outcome
) -> None:
    seen = Seen()
    stream = make(Script(last, b"never read"), seen)
    assert [next(stream) for _ in range(2)] == [b"", last]
    try:
        if error is not None:
            raise error
    except BaseException:  # noqa: BLE001
        stream.close()
    stream.close()
    assert seen.ends == [(outcome, None, len(last))]
    assert stream.read_to_end is (outcome is Outcome.COMPLETED)


def test_an_upload_that_fails_while_the_response_arrives() -> None:
    """The head is out: no 400 can follow it, only a break."""
    seen = Seen()
    stream = make(Script(b"a", ClientError("truncated")), seen)
    assert [next(stream) for _ in range(2)] == [b"", b"a"]
    with pytest.raises(ConnectionResetError):
        next(stream)
    stream.close()
    assert seen.ends == [(Outcome.CLIENT_GONE, "invalid_request", 1)]


def serve_like_gunicorn(stream: ResponseStream, write: Callable[[bytes], None]) -> None:
    try:
        for chunk in stream:
            write(chunk)
    finally:
        stream.close()


@pytest.mark.parametrize(
    ("interruption", "end"),
    [
        (ClientDisconnected, (Outcome.CLIENT_GONE, None, 1)),
        (ShuttingDown, (Outcome.ABORTED, "draining", 1)),
    ],
)
@pytest.mark.parametrize("where", ["waiting", "writing"])
def test_interrupted(
    interruption: type[Cancelled], end: tuple[Outcome, str | None, int], where: str
) -> None:
    block, reached = Event(), Event()
    seen = Seen()
    upstream = Script(b"a", block) if where == "waiting" else Script(b"a", b"b")

    def write(chunk: bytes) -> None:
        if chunk:
            reached.set()
            if where == "writing":
                block.wait(20)

    stream = make(upstream, seen)
    server = gevent.spawn(serve_like_gunicorn, stream, write)
    assert reached.wait(20)
    gevent.sleep(0)
    server.kill(interruption)
    assert isinstance(server.value, interruption)
    assert upstream.closed == 1
    assert seen.chunks == [b"a"]
    assert seen.ends == [end]


@pytest.mark.parametrize("known", [True, False])
def test_interrupted_in_the_write_of_the_last_chunk(known: bool) -> None:
    block, reached = Event(), Event()
    seen = Seen()

    def write(chunk: bytes) -> None:
        if chunk:
            reached.set()
            block.wait(20)

    stream = make(Script(b"last", known=known), seen)
    server = gevent.spawn(serve_like_gunicorn, stream, write)
    assert reached.wait(20)
    server.kill(ShuttingDown)
    assert seen.ends == [(Outcome.ABORTED, "draining", 4)]
    assert seen.chunks == [b"last"]


def test_a_closing_event() -> None:
    """They go out, then the response breaks; it never looks complete."""
    seen, asked = Seen(), []

    def closing_event(interruption: Cancelled) -> bytes:
        asked.append(interruption)
        return b"event: error\n\n"

    upstream = Script(b"a", ShuttingDown())
    stream = make(upstream, seen, closing_event)
    assert [next(stream) for _ in range(3)] == [b"", b"a", b"event: error\n\n"]
    for _ in range(2):
        with pytest.raises(ShuttingDown):
            next(stream)
    stream.close()
    assert len(asked) == 1
    assert seen.chunks == [b"a"]  # a closing event has no usage
    assert seen.ends == [(Outcome.ABORTED, "draining", 15)]


def test_no_closing_event_for_a_client_that_has_left() -> None:
    stream = make(
        Script(ClientDisconnected()), Seen(), closing_event=lambda interruption: b"hello?"
    )
    next(stream)
    with pytest.raises(ClientDisconnected):
        next(stream)


def test_the_meter_sees_the_chunk_before_the_closing_event_is_made() -> None:
    seen = Seen()

    def closing_event(interruption: Cancelled) -> bytes:
        return b"after " + b"".join(seen.chunks)

    stream = make(Script(b"a", b"b", ShuttingDown()), seen, closing_event)
    assert list(zip(range(4), stream, strict=False))[-1] == (3, b"after ab")


@pytest.mark.parametrize("where", ["upstream", "feed", "finish"])
def test_the_end_is_reported_even_if_closing_fails(where: str) -> None:
    upstream, seen = Script(b"a"), Seen()

    def fail(*args: object) -> None:
        raise RuntimeError("a defect")

    if where == "upstream":
        upstream.close = fail
    else:
        setattr(seen, where, fail)
    stream = make(upstream, seen)
    assert [next(stream) for _ in range(2)] == [b"", b"a"]
    with pytest.raises(RuntimeError):
        stream.close()
    stream.close()
    assert len(seen.ends) == 1
    assert seen.finished == ([] if where == "finish" else [False])


def test_timing_marks() -> None:
    timing = Timing()
    stream = ResponseStream(
        Script(b"a", b"b", known=True),  # type: ignore[arg-type]
        timing,
        [],
        closing_event=no_event,
        on_close=lambda stream: None,
    )
    next(stream)
    assert timing.first_byte == 0
    next(stream)
    first, done = timing.first_byte, timing.upstream_done
    assert first > 0
    assert done == 0
    next(stream)
    assert timing.first_byte == first
    done = timing.upstream_done
    assert done >= first
    stream.close()
    assert timing.upstream_done == done  # how long the client took for it is not the upstream's


# On a real connection.


@pytest.fixture
def transport(_no_socket_left: None) -> Iterator[SessionTransport]:
    session = requests.Session()
    session.mount("http://", UpstreamAdapter(pool_size=2, connect_timeout=5))
    made = SessionTransport(session, connect_timeout=5, read_timeout=20)
    yield made
    made.close()


def handle(transport: SessionTransport, origin: str) -> UpstreamResponse:
    request = OutboundRequest("GET", b"/v1/x", [("Host", "h")], None)
    return transport.handle(PreparedCall(url=origin + "/v1/x", request=request), Timing())


@pytest.mark.parametrize(
    "response", [OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n", CHUNKED + b"2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"]
)
def test_a_response_in_one_packet_ends_without_another_read(
    serve: Serve, transport: SessionTransport, response: bytes
) -> None:
    server = serve(response)
    for _ in range(3):
        seen = Seen()
        stream = make(handle(transport, server.origin), seen)
        assert list(stream) == [b"ok"]  # together with the head, as it came
        stream.close()
        assert seen.ends == [(Outcome.COMPLETED, None, 2)]
    assert len(server.connections) == 1


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_leaving_at_any_time_cancels_the_upstream(
    serve: Serve, transport: SessionTransport, steps: int
) -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(CHUNKED + b"1\r\na\r\n")
        if steps == 2:
            gevent.sleep(0.01)
            connection.send(b"1\r\nb\r\n")
        connection.wait_end()

    server = serve(handler)
    stream = make(handle(transport, server.origin), Seen())
    for _ in range(steps):
        next(stream)
    stream.close()
    wait_until(server.connections[0].ended.is_set)


def test_what_came_with_the_head_goes_with_it() -> None:
    upstream = Script(b"a", b"b")
    upstream.ready = True
    assert list(make(upstream, Seen())) == [b"a", b"b"]


@pytest.mark.parametrize("interruption", [ClientDisconnected, ShuttingDown])
def test_an_interrupted_read_cancels_the_upstream(
    serve: Serve, transport: SessionTransport, interruption: type[Cancelled]
) -> None:
    sent = Event()

    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(CHUNKED + b"1\r\na\r\n")
        sent.set()
        connection.wait_end()

    server, seen, got = serve(handler), Seen(), []
    stream = make(handle(transport, server.origin), seen)
    caller = gevent.spawn(serve_like_gunicorn, stream, got.append)
    wait_until(lambda: b"a" in got)
    caller.kill(interruption)
    wait_until(server.connections[0].ended.is_set)
    assert seen.ends == [
        (Outcome.ABORTED if interruption.code else Outcome.CLIENT_GONE, interruption.code, 1)
    ]


# Keep-alive comments while the upstream is silent.


class Silent(Script):
    """Steps may be None: nothing within the time."""

    def read_within(self, seconds: float) -> bytes | None:
        assert seconds == 7
        if self._steps and self._steps[0] is None:  # type: ignore[comparison-overlap]
            self._steps.pop(0)
            return None
        return self.read()


def test_keepalive_comments_where_they_can_stand() -> None:
    comments = [b": ping\n\n", b"", b": ping\n\n"]
    upstream, seen = Silent(None, b"half", None, None, b" event", known=True), Seen()  # type: ignore[arg-type]
    stream = ResponseStream(
        upstream,  # type: ignore[arg-type]
        Timing(),
        [seen],
        closing_event=no_event,
        keepalive=lambda: comments.pop(0),
        idle_after=7,
        on_close=seen.closing(upstream),
    )
    assert list(stream) == [b"", b": ping\n\n", b"half", b": ping\n\n", b" event"]
    stream.close()
    assert seen.chunks == [b"half", b" event"], "ours are not metered"
    assert seen.ends == [(Outcome.COMPLETED, None, 10 + 2 * 8)]


# Reading on after the client has left.


@pytest.mark.parametrize(
    ("rest", "whole"),
    [
        ((b"b", b"c"), True),
        ((), True),
        ((b"b", UpstreamTimeout()), False),
        ((b"b", ShuttingDown()), False),
    ],
)
def test_a_drained_response_is_seen_to_its_end(rest: tuple[Any, ...], whole: bool) -> None:
    upstream, seen = Script(b"a", *rest), Seen()
    stream = ResponseStream(
        upstream,  # type: ignore[arg-type]
        Timing(),
        [seen],
        closing_event=no_event,
        drain_on_disconnect=True,
        on_close=seen.closing(upstream),
    )
    assert [next(stream), next(stream)] == [b"", b"a"]
    stream.close()
    assert seen.chunks == [b"a", *[step for step in rest if isinstance(step, bytes)]]
    assert seen.ends == [(Outcome.CLIENT_GONE, None, 1)]
    assert stream.read_to_end is whole
    assert seen.finished == [whole]
    assert upstream.closed == 1


def test_nothing_is_drained_when_it_was_not_the_client() -> None:
    upstream, seen = Script(b"a", UpstreamTimeout(), b"never"), Seen()
    stream = ResponseStream(
        upstream,  # type: ignore[arg-type]
        Timing(),
        [seen],
        closing_event=no_event,
        drain_on_disconnect=True,
        on_close=seen.closing(upstream),
    )
    with pytest.raises(ConnectionResetError):
        list(stream)
    stream.close()
    assert seen.chunks == [b"a"]
    assert not stream.read_to_end
    assert seen.finished == [False]


LARGE = b"x" * (STEP + 1)


def interrupted_turns(monkeypatch: pytest.MonkeyPatch, interruption: Cancelled) -> list[int]:
    """The second turn throws it in; returns a list that has one item for each turn."""
    turns: list[int] = []

    def turn() -> None:
        turns.append(1)
        if len(turns) == 2:
            raise interruption

    monkeypatch.setattr(yielding, "turn_if_due", turn)
    return turns


def test_metering_a_large_chunk_leaves_others_their_turn() -> None:
    def relay() -> None:
        stream = make(Script(LARGE, LARGE, known=True), Seen())
        list(stream)
        stream.close()

    assert served_while(relay) >= 3


def test_a_small_chunk_is_metered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = interrupted_turns(monkeypatch, ShuttingDown())
    seen = Seen()
    stream = make(Script(LARGE[:STEP], b"b", known=True), seen)
    list(stream)
    stream.close()
    assert (seen.chunks, turns) == ([LARGE[:STEP], b"b"], [])


def test_what_a_compressed_chunk_inflates_to_is_metered_by_steps() -> None:
    seen = Seen()
    upstream = Script(b"ab", known=True)
    stream = ResponseStream(
        upstream,  # type: ignore[arg-type]
        Timing(),
        [seen],
        closing_event=no_event,
        inflated=True,
        on_close=seen.closing(upstream),
    )
    list(stream)
    stream.close()
    assert seen.chunks == [b"a", b"b"]


def test_an_interruption_while_a_chunk_is_metered(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is metered first, so that it is known whether a closing event can stand alone."""
    interrupted_turns(monkeypatch, ShuttingDown())
    upstream, seen = Script(LARGE, b"never read"), Seen()
    stream = make(upstream, seen, closing_event=lambda cut: b"".join(seen.chunks)[-3:] + b"!")
    assert [next(stream), next(stream)] == [b"", LARGE]
    assert next(stream) == b"xxx!"
    with pytest.raises(ShuttingDown):
        next(stream)
    stream.close()
    assert b"".join(seen.chunks) == LARGE
    assert seen.ends == [(Outcome.ABORTED, "draining", len(LARGE) + 4)]
    assert upstream.closed == 1


@pytest.mark.parametrize(
    ("known", "end"),
    [(True, (Outcome.COMPLETED, None)), (False, (Outcome.ABORTED, "draining"))],
)
def test_an_interruption_while_the_last_chunk_is_metered(
    monkeypatch: pytest.MonkeyPatch, known: bool, end: tuple[Outcome, str | None]
) -> None:
    """Nothing leaks, and what was complete stays so."""
    interrupted_turns(monkeypatch, ShuttingDown())
    upstream, seen = Script(LARGE, known=known), Seen()
    stream = make(upstream, seen)
    assert [next(stream), next(stream)] == [b"", LARGE]
    if known:
        assert list(stream) == []
    stream.close()
    assert b"".join(seen.chunks) == LARGE
    assert seen.ends == [(*end, len(LARGE))]
    assert upstream.closed == 1


def test_a_greenlet_that_is_killed_while_the_last_chunk_is_metered_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream, seen = Script(b"x" * (STEP + 1), known=True), Seen()
    stream = make(upstream, seen)
    assert len(list(stream)) == 2
    monkeypatch.setattr("proxy.gateway.response_stream.in_turns", _killed)
    with pytest.raises(gevent.GreenletExit):
        stream.close()
    assert upstream.closed == 1
    assert seen.ends == [(Outcome.COMPLETED, None, STEP + 1)]


def _killed(steps: Iterator[None]) -> None:
    raise gevent.GreenletExit
