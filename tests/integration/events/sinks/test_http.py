"""POST to a real endpoint (``proxy/events/sinks/http.py``)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.events.dead_letters import DeadLetterFile
from proxy.events.sinks import http
from proxy.events.sinks.http import HttpSink, NotAccepted
from tests.support import fault_proxy
from tests.support.event_receiver import Receiver
from tests.support.event_samples import event

LINES = [event(f"r{number}").line() for number in range(4)]
EVENTS = [json.loads(line) for line in LINES]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


@pytest.fixture
def dead(tmp_path: Path) -> DeadLetterFile:
    return DeadLetterFile(tmp_path / "dead.jsonl")


@pytest.fixture
def sink(receiver: Receiver, dead: DeadLetterFile) -> Iterator[HttpSink]:
    made = HttpSink(receiver.url, "token-canary", dead)
    yield made
    made.close()


def test_a_batch_is_one_json_array(sink: HttpSink, receiver: Receiver) -> None:
    sink.write(LINES)
    sink.write(LINES[:1])
    assert receiver.events == EVENTS + EVENTS[:1]
    assert len(receiver.requests) == 2
    request = receiver.requests[0]
    assert (request["REQUEST_METHOD"], request["PATH_INFO"]) == ("POST", "/in")
    assert request["QUERY_STRING"] == "key=query-canary"
    assert request["CONTENT_TYPE"] == "application/json"
    assert request["HTTP_AUTHORIZATION"] == "Bearer token-canary"


def test_without_a_token_there_is_no_authorization(
    receiver: Receiver, dead: DeadLetterFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    HttpSink(receiver.url, "", dead).write(LINES)
    assert "HTTP_AUTHORIZATION" not in receiver.requests[0]


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content"])
def test_any_2xx_accepts_the_batch(sink: HttpSink, receiver: Receiver, status: str) -> None:
    receiver.judge = lambda _batch: status
    sink.write(LINES)


@pytest.mark.parametrize(
    "status",
    [
        "307 Temporary Redirect",
        "401 No",
        "403 No",
        "404 No",
        "408 No",
        "429 No",
        "500 No",
        "503 No",
    ],
)
def test_temporary_failures_raise_so_that_the_batch_is_sent_again(
    sink: HttpSink, receiver: Receiver, dead: DeadLetterFile, status: str
) -> None:
    receiver.headers = [("Location", receiver.url)]
    receiver.judge = lambda _batch: status
    with pytest.raises(NotAccepted, match=f"HTTP {status[:3]}"):
        sink.write(LINES)
    assert len(receiver.requests) == 1  # a redirect is not followed
    assert dead.count == 0
    receiver.judge = lambda _batch: "200 OK"
    sink.write(LINES)


@pytest.mark.parametrize("status", ["400 Bad", "413 Large", "422 Bad"])
def test_one_bad_event_does_not_block_the_others(
    sink: HttpSink, receiver: Receiver, dead: DeadLetterFile, tmp_path: Path, status: str
) -> None:
    receiver.judge = lambda batch: status if EVENTS[2] in batch else "200 OK"
    sink.write(LINES)
    assert receiver.events == [EVENTS[0], EVENTS[1], EVENTS[3]]
    assert (tmp_path / "dead.jsonl").read_bytes() == LINES[2]


def test_a_batch_that_is_too_large_is_halved(sink: HttpSink, receiver: Receiver) -> None:
    receiver.judge = lambda batch: "413 Large" if len(batch) > 1 else "200 OK"
    sink.write(LINES)
    assert receiver.events == EVENTS


@pytest.mark.parametrize(
    "trouble",
    [fault_proxy.refused, fault_proxy.cut_after(300), fault_proxy.answer_lost, fault_proxy.silent],
)
def test_the_error_of_a_broken_connection_has_no_url(
    receiver: Receiver,
    dead: DeadLetterFile,
    trouble: fault_proxy.Trouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "_READ_TIMEOUT", 0.3)
    between = fault_proxy.Middleman(receiver.port)
    sink = HttpSink(f"http://127.0.0.1:{between.port}/in?key=query-canary", "", dead)
    between.meet(trouble)
    with pytest.raises(NotAccepted) as caught:
        sink.write(LINES)
    assert str(caught.value).startswith(f"127.0.0.1:{between.port}: ")
    assert "canary" not in str(caught.value)
    assert between.hindered == 1  # one attempt: the caller decides about the next one
    between.meet(None)
    sink.write(LINES)
    assert receiver.events[-4:] == EVENTS
    between.close()


def test_a_refused_connection_is_an_error_without_the_url(
    dead: DeadLetterFile, receiver: Receiver
) -> None:
    sink = HttpSink(receiver.url, "", dead)
    receiver.close()
    with pytest.raises(NotAccepted) as caught:
        sink.write(LINES)
    assert str(caught.value) == f"127.0.0.1:{receiver.port}: Connection refused"
