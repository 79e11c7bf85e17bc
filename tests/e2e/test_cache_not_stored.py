"""Responses that are relayed and not kept: the next request goes upstream again."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_upstream import (
    BEHAVIOURS,
    CHAT,
    EMBEDDING,
    RESPONSE,
    chat_events,
    response_events,
    sse,
)
from tests.support.raw_cache_house import (
    CHAT_PATH,
    JSON_TYPE,
    Behaviour,
    CacheHouse,
    asking,
    whole,
)
from tests.support.raw_client import RawClient

CHAT_BYTES = json.dumps(CHAT).encode()
EVENTS = chat_events()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheHouse]:
    with CacheHouse(tmp_path_factory.mktemp("cache"), CACHE_MAX_ENTRY="64KiB") as made:
        yield made


@pytest.fixture(scope="module")
def token(house: CacheHouse) -> str:
    return house.token()


def error(status: str, message: str = "no", code: str | None = None) -> Behaviour:
    return whole({"error": {"message": message, "type": "t", "code": code}}, status=status)


def finished(reason: object) -> dict[str, Any]:
    return {**CHAT, "choices": [{**CHAT["choices"][0], "finish_reason": reason}]}  # type: ignore[index]


def saying(**message: object) -> dict[str, Any]:
    return {**CHAT, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def stream(*events: bytes) -> Behaviour:
    return lambda talk: talk.events(list(events))


def broken_call() -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
    return saying(role="assistant", content=None, tool_calls=[call])


def filtered() -> bytes:
    choice = {"index": 0, "delta": {}, "finish_reason": "content_filter"}
    return sse({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})


RELAYED: dict[str, Behaviour] = {
    **{
        f"status {status}": error(status)
        for status in (
            "402 Payment Required",
            "403 Forbidden",
            "404 Not Found",
            "409 Conflict",
            "422 Unprocessable Entity",
            "425 Too Early",
            "429 Too Many Requests",
            "500 Internal Server Error",
            "503 Service Unavailable",
        )
    },
    "policy violation": error("400 Bad Request", code="content_policy_violation"),
    "spent upstream": error("401 Unauthorized", code="insufficient_quota"),
    "redirect": lambda talk: talk.answer("302 Found", [("Location", "/v1/x")], CHAT_BYTES),
    "partial": whole(CHAT, ("Content-Range", "bytes 0-1/9"), status="206 Partial Content"),
    "no content": lambda talk: talk.send(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "error in a 200": whole({"error": {"message": "no"}}),
    "error event": stream(EVENTS[0], sse({"error": {"message": "overloaded"}}, "error")),
    "error member": stream(EVENTS[0], sse({"error": {"message": "overloaded"}}), EVENTS[-1]),
    "content filter": whole(finished("content_filter")),
    "content filter in a stream": stream(EVENTS[0], filtered(), EVENTS[-1]),
    "refusal": whole(saying(role="assistant", content=None, refusal="I cannot.")),
    "no finish reason": whole(finished(None)),
    "broken arguments": whole(broken_call()),
    "empty output": whole(saying(role="assistant", content="")),
    "no choices": whole({**CHAT, "choices": []}),
    "empty body": whole(b""),
    "broken JSON": whole(CHAT_BYTES[:-1]),
    "stream without [DONE]": stream(*EVENTS[:-1]),
    "stream without a finish": stream(*EVENTS[:3], EVENTS[-1]),
    "half a gzip": whole(gzip.compress(CHAT_BYTES)[:-9], ("Content-Encoding", "gzip")),
    "unknown encoding": whole(b"\x0b\x02", ("Content-Encoding", "br")),
    "no-store": whole(CHAT, ("Cache-Control", "no-store")),
    "private": whole(CHAT, ("Cache-Control", "max-age=9, private")),
    "Vary: *": whole(CHAT, ("Vary", "*")),
    "Vary by what is no part of the key": whole(CHAT, ("Vary", "Accept, User-Agent")),
    "too large": whole({**CHAT, "padding": "x" * 70_000}),
}


@pytest.mark.parametrize("case", RELAYED)
def test_it_is_relayed_each_time(house: CacheHouse, token: str, case: str) -> None:
    name = house.upstream.script(RELAYED[case])
    body = asking(name)
    first = house.ask(token, body)
    house.settle()
    again = house.ask(token, body)
    assert again.values("X-Cache") == first.values("X-Cache") == ["MISS"]
    assert (again.status, again.body) == (first.status, first.body)
    assert len(house.upstream.asked_for(name)) == 2


@pytest.mark.parametrize("name", ["cut-chunked", "cut-length", "silent-midstream", "half-event"])
def test_a_response_that_breaks_off_is_not_kept(house: CacheHouse, token: str, name: str) -> None:
    script = house.upstream.script(BEHAVIOURS[name])
    body = asking(script)
    for number in (1, 2):
        with RawClient(house.proxy.port) as client:
            client.request("POST", CHAT_PATH, house.head(token, JSON_TYPE), body)
            client.read_head("POST")
            if name.startswith("cut"):
                assert not client.read_body()[1]
            else:  # the client leaves in the middle
                assert client.read_chunk()
        house.settle()
        assert len(house.upstream.asked_for(script)) == number


@pytest.mark.parametrize("name", ["hang-up", "reset", "garbage", "half-head", "both-lengths"])
def test_no_response_is_kept_of_an_upstream_that_has_none(
    house: CacheHouse, token: str, name: str
) -> None:
    script = house.upstream.script(BEHAVIOURS[name])
    for number in (1, 2):
        response = house.ask(token, asking(script))
        assert response.status == 502
        assert len(house.upstream.asked_for(script)) >= number


def test_a_client_that_leaves_before_the_end_leaves_nothing_half(
    house: CacheHouse, token: str
) -> None:
    def behave(talk: Any) -> None:
        talk.events(EVENTS, gated=True)

    name = house.upstream.script(behave)
    house.upstream.permit()
    head = house.head(token, JSON_TYPE)
    with RawClient(house.proxy.port) as client:
        client.request("POST", CHAT_PATH, head, asking(name))
        client.read_head("POST")
        assert client.read_chunk() == EVENTS[0]
    assert house.event_of(head[1][1])["outcome"] == "client_gone"
    house.settle()
    house.upstream.permit(2 * len(EVENTS))
    again = house.ask(token, asking(name))
    assert again.values("X-Cache") == ["MISS"]
    assert again.body == b"".join(EVENTS)


STATEFUL: dict[str, tuple[str, dict[str, Any], object]] = {
    "previous response": ("/v1/responses", {"previous_response_id": "resp_0"}, RESPONSE),
    "conversation": ("/v1/responses", {"conversation": "conv_1"}, RESPONSE),
    "background": ("/v1/responses", {"background": True}, RESPONSE),
    "web search": ("/v1/responses", {"tools": [{"type": "web_search"}]}, RESPONSE),
    "another endpoint": ("/v1/images/generations", {}, EMBEDDING),
    "no JSON": (CHAT_PATH, {}, CHAT),
}


@pytest.mark.parametrize("case", STATEFUL)
def test_what_has_a_state_passes_by(house: CacheHouse, token: str, case: str) -> None:
    path, more, result = STATEFUL[case]
    name = house.upstream.script(whole(result))
    body = asking(name, **more) + (b"}" if case == "no JSON" else b"")
    for number in (1, 2):
        response = house.ask(token, body, path=path)
        assert response.values("X-Cache") == ["BYPASS"]
        assert response.values("Cache-Status")[0].startswith("openai-proxy; fwd=bypass; detail=")
        house.settle()
        assert len(house.upstream.asked_for(name)) == number


@pytest.mark.parametrize(
    ("line", "body"),
    [
        (
            ("Content-Type", "multipart/form-data; boundary=b"),
            b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n%b\r\n--b--\r\n",
        ),
        (("Content-Type", "application/octet-stream"), b"%b"),
    ],
)
def test_uploads_pass_by(house: CacheHouse, token: str, line: tuple[str, str], body: bytes) -> None:
    name = house.upstream.script(whole(CHAT))
    for number in (1, 2):
        with RawClient(house.proxy.port) as client:
            head = house.head(token, line)
            client.request("POST", CHAT_PATH, head, body % name.encode())
            response = client.read_response("POST")
        assert response.values("X-Cache") == ["BYPASS"]
        house.settle()
        assert len(house.upstream.asked_for(name)) == number


def test_a_chunked_upload_of_json_is_held_and_kept(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(whole(CHAT))
    body = asking(name)

    def ask() -> list[str]:
        with RawClient(house.proxy.port) as client:
            client.request(
                "POST", CHAT_PATH, house.head(token, JSON_TYPE, ("Transfer-Encoding", "chunked"))
            )
            client.send(b"%X\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            return client.read_response("POST").values("X-Cache")

    assert ask() == ["MISS"]
    house.settle()
    # The framing of the body is not part of the request.
    assert house.ask(token, body).values("X-Cache") == ask() == ["HIT"]


def test_polled_resources_are_asked_for_each_time(house: CacheHouse, token: str) -> None:
    for path in ("/v1/responses/resp_1", "/v1/batches/b", "/v1/files/f"):
        name = house.upstream.script(whole(RESPONSE))
        for number in (1, 2):
            house.get(token, f"{path}?{name}")
            house.settle()
            assert len(house.upstream.asked_for(name)) == number


def test_other_methods_forget_what_they_change(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(whole({"id": "m"}, ("Cache-Control", "max-age=300")))
    target = f"/v1/files/f?{name}"
    first = house.get(token, target)
    assert first.values("X-Cache") == ["MISS"]
    house.hit(token, method="GET", path=target)
    changed = house.ask(token, path=target, method="DELETE")
    assert changed.values("X-Cache") == ["BYPASS"]
    house.settle()
    assert house.get(token, target).values("X-Cache") == ["MISS"]


def test_a_limit_of_the_output_is_part_of_the_request(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(whole(finished("length")))
    house.ask(token, asking(name, max_tokens=1))
    house.hit(token, asking(name, max_tokens=1))
    assert house.ask(token, asking(name, max_tokens=2)).values("X-Cache") == ["MISS"]


def test_a_stream_that_is_not_over_is_no_response(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(lambda talk: talk.events(response_events()[:-1]))
    for _ in range(2):
        house.ask(token, asking(name), path="/v1/responses")
        house.settle()
    assert len(house.upstream.asked_for(name)) == 2
