"""A transformed response: less goes out, all is metered, and the stream's promises hold."""

from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.errors import ResponseBroken, UpstreamError
from proxy.gateway.body_transform import TransformedBody
from proxy.gateway.inflight import Cancelled, ShuttingDown
from proxy.gateway.response_stream import Outcome, ResponseStream
from proxy.runtime.yielding import STEP
from proxy.upstream.timing import Timing
from tests.support.loop_probe import served_while
from tests.support.scripted_upstream import Script, Seen, no_event

pytestmark = pytest.mark.usefixtures("no_socket_left")


class Upper:
    """Passes what is in upper case, in pieces that a ``.`` ends."""

    def __init__(self) -> None:
        self.held = b""

    def feed(self, chunk: bytes) -> bytes:
        text, dot, self.held = (self.held + chunk).rpartition(b".")
        return bytes(byte for byte in text + dot if not chr(byte).islower())

    def end(self) -> bytes:
        held, self.held = self.held, b""
        return held


def make(
    upstream: Any, seen: Seen, closing_event: Callable[[Cancelled], bytes] = no_event, **more: Any
) -> ResponseStream:
    response = TransformedBody(upstream, Upper(), seen)
    return ResponseStream(
        response,
        Timing(),
        [response],
        closing_event=closing_event,
        on_close=seen.closing(upstream),
        **more,
    )


@pytest.mark.parametrize("known", [True, False])
def test_less_goes_out_and_all_is_seen(known: bool) -> None:
    chunks = [b"A", b"a.", b"xx", b"B.", b"x", b".Cc", b"D."]
    upstream, seen = Script(*chunks, known=known), Seen()
    stream = make(upstream, seen)
    assert list(stream) == [b"", b"A.", b"B.", b".", b"CD."]
    stream.close()
    assert seen.chunks == chunks
    assert seen.ends == [(Outcome.COMPLETED, None, 8)]
    assert upstream.closed == 1


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("last", "out"), [(b"Bb", [b"", b"A.", b"Bb"]), (b"b", [b"", b"A.", b"b"])]
)
def test_what_is_held_goes_out_at_the_end(known: bool, last: bytes, out: list[bytes]) -> None:
    upstream, seen = Script(b"A.", last, known=known), Seen()
    stream = make(upstream, seen)
    assert list(stream) == out
    stream.close()
    assert seen.chunks == [b"A.", last]


class Nothing(Upper):
    def end(self) -> bytes:
        return b""


@pytest.mark.parametrize("known", [True, False])
def test_an_end_with_nothing_to_send(known: bool) -> None:
    seen = Seen()
    upstream = Script(b"A.", b"b", known=known)
    response = TransformedBody(upstream, Nothing(), seen)
    stream = ResponseStream(
        response, Timing(), [response], closing_event=no_event, on_close=seen.closing(upstream)
    )
    assert list(stream) == [b"", b"A."]
    stream.close()
    assert seen.chunks == [b"A.", b"b"]
    assert seen.ends == [(Outcome.COMPLETED, None, 2)]


def test_a_chunk_is_metered_after_it_has_gone_out() -> None:
    seen = Seen()
    stream = make(Script(b"A.", b"B."), seen)
    assert [next(stream), next(stream)] == [b"", b"A."]
    assert seen.chunks == []
    assert next(stream) == b"B."
    assert seen.chunks == [b"A."]
    stream.close()
    assert seen.chunks == [b"A.", b"B."]


class Ready(Script):
    """So many chunks came together with the head."""

    def __init__(self, count: int, *steps: bytes, known: bool = False) -> None:
        super().__init__(*steps, known=known)
        self._count = count

    @property
    def ready(self) -> bool:
        return self.reads < self._count or self.complete

    @ready.setter
    def ready(self, value: bool) -> None: ...


@pytest.mark.parametrize(
    ("upstream", "first"),
    [
        (Ready(1, b"A.", b"B."), b"A."),
        (Ready(2, b"a", b".", b"B."), b"."),
        # Nothing to send yet: the head does not wait.
        (Ready(1, b"A", b".B."), b""),
        (Ready(2, b"a", b"b", b"."), b""),
        # All of it is there, and nothing of it is for the client before the end.
        (Ready(1, b"A.", known=True), b"A."),
        (Ready(1, b"A", known=True), b"A"),
    ],
)
def test_what_came_with_the_head_goes_with_the_head(upstream: Ready, first: bytes) -> None:
    seen = Seen()
    steps = list(upstream._steps)
    stream = make(upstream, seen)
    reads = upstream._count
    out = [next(stream)]
    assert out == [first]
    assert upstream.reads == reads
    out += stream
    stream.close()
    assert seen.chunks == steps
    alone = Upper()
    assert b"".join(out) == alone.feed(b"".join(steps)) + alone.end()
    assert seen.ends[0][0] is Outcome.COMPLETED


def test_all_ready_and_nothing_to_send() -> None:
    seen = Seen()
    upstream = Ready(1, b"a", known=True)
    response = TransformedBody(upstream, Nothing(), seen)
    stream = ResponseStream(
        response, Timing(), [response], closing_event=no_event, on_close=seen.closing(upstream)
    )
    assert list(stream) == []
    stream.close()
    assert seen.chunks == [b"a"]
    assert seen.ends == [(Outcome.COMPLETED, None, 0)]


def test_a_broken_response_breaks_and_an_incomplete_event_is_not_sent() -> None:
    upstream, seen = Script(b"A.B", ResponseBroken("cut")), Seen()
    stream = make(upstream, seen)
    assert [next(stream), next(stream)] == [b"", b"A."]
    with pytest.raises(ConnectionResetError):
        next(stream)
    stream.close()
    assert seen.chunks == [b"A.B"]
    assert seen.ends[0][:2] == (Outcome.ABORTED, "upstream_broken")


def test_a_closing_event_follows_what_went_out() -> None:
    seen = Seen()
    stream = make(Script(b"A.B", ShuttingDown()), seen, lambda cut: b"bye")
    assert [next(stream), next(stream), next(stream)] == [b"", b"A.", b"bye"]
    with pytest.raises(ShuttingDown):
        next(stream)
    stream.close()
    assert seen.chunks == [b"A.B"]


def test_the_worker_that_reads_for_this_one_stops_and_its_last_words_are_the_same() -> None:
    seen = Seen()
    stopped = UpstreamError(code="draining")
    stream = make(Script(b"A.B", stopped), seen, lambda cut: f"bye: {cut.code}".encode())
    assert [next(stream), next(stream), next(stream)] == [b"", b"A.", b"bye: draining"]
    with pytest.raises(ShuttingDown):
        next(stream)
    stream.close()
    assert seen.ends[0][:2] == (Outcome.ABORTED, "draining")


def test_read_on_after_the_client_has_left() -> None:
    upstream, seen = Script(b"A.", b"b.", b"C."), Seen()
    stream = make(upstream, seen, drain_on_disconnect=True)
    assert [next(stream), next(stream)] == [b"", b"A."]
    stream.close()
    assert seen.chunks == [b"A.", b"b.", b"C."]
    assert stream.read_to_end
    assert seen.finished == [True]
    assert seen.ends == [(Outcome.CLIENT_GONE, None, 2)]


class Slow(Script):
    """None where nothing comes in time."""

    def read_within(self, seconds: float) -> bytes | None:
        assert seconds == 2.5
        return self.read() or None if self._steps else b""


def test_keepalive_comments_while_nothing_comes() -> None:
    upstream, seen = Slow(b"A", b"", b".", b"", b"B."), Seen()
    words = iter([b"", b"idle"])
    stream = make(upstream, seen, idle_after=2.5, keepalive=lambda: next(words))
    assert list(stream) == [b"", b"A.", b"idle", b"B."]
    stream.close()
    assert seen.chunks == [b"A", b".", b"B."]


@pytest.mark.parametrize("known", [True, False])
def test_a_large_chunk_goes_through_in_pieces(known: bool) -> None:
    large = b"A." * STEP
    seen = Seen()
    stream = make(Script(large, b"B.", known=known), seen)
    out = list(stream)
    stream.close()
    assert b"".join(out) == large + b"B."
    assert max(map(len, out)) == STEP
    assert b"".join(seen.chunks) == large + b"B."
    assert seen.ends == [(Outcome.COMPLETED, None, len(large) + 2)]


def test_filtering_leaves_others_their_turn() -> None:
    def relay() -> None:
        stream = make(Script(b"x" * STEP * 16, known=True), Seen())
        list(stream)
        stream.close()

    assert served_while(relay) >= 3


class Unfinished(Upper):
    """Breaks off at the end, as a translation does without the upstream's last event."""

    def end(self) -> bytes:
        raise ResponseBroken("it ended early")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("chunks", [[b"A.", b"B."], [b"A.", b"B.", b"x"]])
def test_a_transform_that_breaks_off_at_the_end(known: bool, chunks: list[bytes]) -> None:
    upstream, seen = Script(*chunks, known=known), Seen()
    response = TransformedBody(upstream, Unfinished(), seen)
    stream = ResponseStream(
        response, Timing(), [response], closing_event=no_event, on_close=seen.closing(upstream)
    )
    out: list[bytes] = []
    with pytest.raises(ConnectionResetError):
        out.extend(stream)
    stream.close()
    # All that was transformed has gone out before.
    assert out == [b"", b"A.", b"B."]
    assert seen.chunks == chunks
    assert seen.ends == [(Outcome.ABORTED, "upstream_broken", 4)]


class Unreadable(Upper):
    def feed(self, chunk: bytes) -> bytes:
        raise ResponseBroken("it cannot be read")


def test_a_transform_that_fails_on_what_came_with_the_head() -> None:
    response = TransformedBody(Ready(1, b"A."), Unreadable(), Seen())
    assert response.ready
    assert not response.complete
    with pytest.raises(ResponseBroken):
        response.read()
