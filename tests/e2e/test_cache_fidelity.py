"""What the cache sends again is what the upstream sent, byte for byte and chunk for chunk."""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator

import pytest

from tests.support.fake_upstream import (
    CHAT,
    COMPLETION,
    EMBEDDING,
    RESPONSE,
    Conversation,
    chat_events,
    completion_events,
    response_events,
    sse,
)
from tests.support.raw_cache_house import (
    CHAT_PATH,
    JSON_TYPE,
    SSE_TYPE,
    CacheHouse,
    asking,
    chunked,
    replayed,
    whole,
)
from tests.support.raw_client import RawClient
from tests.support.wait import wait_until

CHAT_BYTES = json.dumps(CHAT, indent=1).encode()
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Hi."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 12},
}
MESSAGE_EVENTS = [
    sse(each, str(each["type"]))
    for each in (
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Hi."},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 12},
        },
        {"type": "message_stop"},
    )
]
MODERATION = {"id": "modr-1", "model": "m", "results": [{"flagged": False}]}
GZIP, DEFLATE = ("Content-Encoding", "gzip"), ("Content-Encoding", "deflate")


def _compressed_events() -> list[bytes]:
    compressor = zlib.compressobj(wbits=31)
    pieces = [
        compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH) for event in chat_events()
    ]
    return [*pieces, compressor.flush()]


WHOLE = {
    "chat": (CHAT_PATH, whole(CHAT_BYTES)),
    "chat, gzip": (CHAT_PATH, whole(gzip.compress(CHAT_BYTES, mtime=0), GZIP)),
    "chat, deflate": (CHAT_PATH, whole(zlib.compress(CHAT_BYTES), DEFLATE)),
    "stream with a length": (CHAT_PATH, whole(b"".join(chat_events()), SSE_TYPE)),
    "completion": ("/v1/completions", whole(COMPLETION)),
    "embedding": ("/v1/embeddings", whole(EMBEDDING)),
    "response": ("/v1/responses", whole(RESPONSE)),
    "moderation": ("/v1/moderations", whole(MODERATION)),
    "message": ("/v1/messages", whole(MESSAGE)),
    "large": (
        "/v1/embeddings",
        whole({**EMBEDDING, "data": [{"embedding": [0.123456789] * 50_000}] * 2}),
    ),
}
# `whole` names JSON first: the stream has one type only.
WHOLE["stream with a length"] = (
    CHAT_PATH,
    lambda talk: talk.answer("200 OK", [SSE_TYPE], b"".join(chat_events())),
)
IN_CHUNKS = {
    "chat": (CHAT_PATH, chat_events(), [SSE_TYPE]),
    "chat, CRLF": (CHAT_PATH, [e.replace(b"\n", b"\r\n") for e in chat_events()], [SSE_TYPE]),
    "chat, odd borders": (
        CHAT_PATH,
        [b"".join(chat_events())[at : at + 97] for at in range(0, 900, 97)]
        + [b"".join(chat_events())[970:]],
        [SSE_TYPE],
    ),
    "chat, gzip": (CHAT_PATH, _compressed_events(), [SSE_TYPE, GZIP]),
    "completion": ("/v1/completions", completion_events(), [SSE_TYPE]),
    "response": ("/v1/responses", response_events(), [SSE_TYPE]),
    "message": ("/v1/messages", MESSAGE_EVENTS, [SSE_TYPE]),
    "JSON in chunks": (CHAT_PATH, [CHAT_BYTES[:7], CHAT_BYTES[7:8], CHAT_BYTES[8:]], [JSON_TYPE]),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheHouse]:
    sizes = {"CACHE_MAX_ENTRY": "16MiB", "MAX_CACHE_SIZE": "512MiB"}
    with CacheHouse(tmp_path_factory.mktemp("cache"), **sizes) as made:
        yield made


@pytest.fixture(scope="module")
def token(house: CacheHouse) -> str:
    return house.token()


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_body_comes_again(house: CacheHouse, token: str, case: str) -> None:
    path, behaviour = WHOLE[case]
    body = asking(house.upstream.script(behaviour), input="Hi")
    first = house.ask(token, body, path=path)
    assert first.values("X-Cache") == ["MISS"], first
    again = house.hit(token, body, path=path)
    assert replayed(again) == replayed(first)
    assert again.values("Content-Length") == [str(len(first.body))]
    assert not again.values("Transfer-Encoding")


@pytest.mark.parametrize("case", IN_CHUNKS)
def test_chunks_come_again_as_they_came(house: CacheHouse, token: str, case: str) -> None:
    path, chunks, lines = IN_CHUNKS[case]
    name = house.upstream.script(chunked(chunks, *lines))
    body = asking(name, input="Hi")
    with RawClient(house.proxy.port) as client:
        client.request("POST", path, house.head(token, JSON_TYPE), body)
        # The head goes out with the first chunk.
        house.upstream.permit()
        line, headers = client.read_head("POST")
        for chunk in chunks:
            assert client.read_chunk() == chunk
            house.upstream.permit(chunk is not chunks[-1])
        assert client.read_chunk() == b""
    house.settle()
    with RawClient(house.proxy.port) as client:
        client.request("POST", path, house.head(token, JSON_TYPE), body)
        line_again, _ = client.read_head("POST")
        found = [client.read_chunk() for _ in range(len(chunks) + 1)]
    assert line_again == line
    assert found == [*chunks, b""]
    assert len(house.upstream.asked_for(name)) == 1
    assert ("Transfer-Encoding", "chunked") in headers


def test_the_list_of_models_comes_again(house: CacheHouse, token: str) -> None:
    listed = {"object": "list", "data": [{"id": "gpt-4.1", "object": "model"}]}
    name = house.upstream.script(whole(listed, ("X-A", "b")))
    first = house.get(token, f"/v1/models?{name}")
    again = house.hit(token, method="GET", path=f"/v1/models?{name}")
    assert replayed(again) == replayed(first)
    one = house.upstream.script(whole(listed["data"][0]))
    first = house.get(token, f"/v1/models/{one}")
    assert replayed(house.hit(token, method="GET", path=f"/v1/models/{one}")) == replayed(first)
    # A query is part of the key.
    assert house.get(token, f"/v1/models/{one}?a=").values("X-Cache") == ["MISS"]


def test_lines_keep_their_order_and_what_is_of_one_exchange_stays_there(
    house: CacheHouse, token: str
) -> None:
    lines = [
        ("x-lower", "kept"),
        ("Set-Cookie", "__cf_bm=a; Path=/"),
        ("X-Twice", "1"),
        ("X-Empty", ""),
        ("X-Latin", "caf\xe9"),
        ("X-Twice", "2"),
        ("Set-Cookie", "_cfuvid=b"),
        ("x-request-id", "req_1"),
        ("openai-version", "2020-10-01"),
        ("openai-processing-ms", "371"),
        ("x-ratelimit-remaining-requests", "7"),
        ("CF-Ray", "9"),
        ("Alt-Svc", 'h3=":443"'),
        ("Connection", "X-Hop, keep-alive"),
        ("X-Hop", "must go"),
        ("X-Cache", "HIT of another cache"),
        ("Age", "3000"),
    ]
    body = asking(house.upstream.script(whole(CHAT, *lines)))
    first = house.ask(token, body)
    assert first.values("Set-Cookie") == ["__cf_bm=a; Path=/", "_cfuvid=b"]
    again = house.hit(token, body)
    kept = ["x-lower", "X-Twice", "X-Empty", "X-Latin", "X-Twice", "x-request-id", "openai-version"]
    names = [name for name, _ in again.headers]
    assert [name for name in names if name in kept] == kept
    assert again.values("X-Twice") == ["1", "2"]
    assert again.values("X-Latin") == ["caf\xe9"]
    for gone in (
        "Set-Cookie",
        "openai-processing-ms",
        "x-ratelimit-remaining-requests",
        "CF-Ray",
        "Alt-Svc",
        "X-Hop",
    ):
        assert not again.values(gone), gone
    assert again.values("X-Cache") == ["HIT"]
    assert len(again.values("Age")) == len(again.values("Date")) == 1
    assert int(again.values("Age")[0]) < 300


def test_what_the_proxy_says_itself_is_of_this_exchange(house: CacheHouse, token: str) -> None:
    body = asking(house.upstream.script(whole(CHAT)))
    first = house.ask(token, body)
    again = house.hit(token, body)
    assert again.values("X-Proxy") == ["openai-proxy"]
    for name in ("X-Proxy-Request-ID", "Server-Timing"):
        assert len(again.values(name)) == len(first.values(name)), name
    assert again.values("X-Proxy-Request-ID") != first.values("X-Proxy-Request-ID")
    assert len(again.values("X-Cache-Key")[0]) == 16
    (status,) = again.values("Cache-Status")
    assert status.startswith("openai-proxy; hit; ttl=")


def test_a_hit_for_http_1_0_ends_with_the_connection(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(chunked(chat_events(), SSE_TYPE))
    house.upstream.permit(len(chat_events()))
    body = asking(name, stream=True)
    first = house.ask(token, body)
    house.hit(token, body)
    with RawClient(house.proxy.port) as client:
        client.send(
            f"POST {CHAT_PATH} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        hit = client.read_response("POST")
    assert hit.values("X-Cache") == ["HIT"]
    assert not hit.values("Transfer-Encoding")
    assert hit.body == first.body


def test_a_kept_connection_serves_hits_one_after_the_other(house: CacheHouse, token: str) -> None:
    body = asking(house.upstream.script(whole(CHAT)))
    first = house.ask(token, body)
    house.hit(token, body)
    with RawClient(house.proxy.port) as client:
        for _ in range(5):
            client.request("POST", CHAT_PATH, house.head(token, JSON_TYPE), body)
        for _ in range(5):
            again = client.read_response("POST")
            assert (again.body, again.values("X-Cache")) == (first.body, ["HIT"])


def test_a_client_that_leaves_in_a_hit_is_seen_to_leave(house: CacheHouse, token: str) -> None:
    # More than the buffers of both ends take.
    large = b'{"data":[{"embedding":[%b0.1]}]}' % (b"0.12345678," * 750_000)
    body = asking(house.upstream.script(whole(large)), input="Hi")
    house.ask(token, body, path="/v1/embeddings")
    house.hit(token, body, path="/v1/embeddings")
    head = house.head(token, JSON_TYPE)
    with RawClient(house.proxy.port) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.request("POST", "/v1/embeddings", head, body)
        _, headers = client.read_head("POST")
        assert ("X-Cache", "HIT") in headers
    event = house.event_of(head[1][1])
    assert (event["outcome"], event["cache"]) == ("client_gone", "hit")
    # Nothing of it is left behind.
    assert house.hit(token, body, path="/v1/embeddings").clean


def test_stream_and_whole_response_do_not_serve_each_other(house: CacheHouse, token: str) -> None:
    def behave(talk: Conversation) -> None:
        if b'"stream"' in talk.request.body:
            talk.events(chat_events())
        else:
            talk.answer("200 OK", [JSON_TYPE], CHAT_BYTES)

    name = house.upstream.script(behave)
    house.ask(token, asking(name))
    assert house.hit(token, asking(name)).body == CHAT_BYTES
    stream = house.ask(token, asking(name, stream=True))
    assert stream.values("X-Cache") == ["MISS"]
    assert house.hit(token, asking(name, stream=True)).body == b"".join(chat_events())


def test_each_byte_of_the_body_counts(house: CacheHouse, token: str) -> None:
    name = house.upstream.script(whole(CHAT))
    bodies = [
        asking(name),
        asking(name) + b" ",
        asking(name, temperature=1),
        asking(name, temperature=1.0),
        asking(name, user="a"),
        asking(name, tools=[]),
    ]
    for body in bodies:
        assert house.ask(token, body).values("X-Cache") == ["MISS"]
    wait_until(lambda: len(house.upstream.asked_for(name)) == len(bodies))
    for body in bodies:
        house.hit(token, body)
