"""A request as it came in: header lines, ids, addresses, paths, and a body read once."""

import tracemalloc
from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.gateway import request as inbound_module
from proxy.gateway.request import (
    ClientRequest,
    ClientRequestBody,
    check_path,
    client_address,
    request_id,
)
from tests.support.relay_factories import Input, environ


def inbound(*args: Any, trusted_proxies: int = 0, **kwargs: Any) -> ClientRequest:
    return ClientRequest(environ(*args, **kwargs), trusted_proxies)


def test_the_target_is_taken_as_it_stands() -> None:
    request = inbound("POST", "/v1/files/a%2Fb//c?x=%zz&y=1?2")
    assert request.target == "/v1/files/a%2Fb//c?x=%zz&y=1?2"
    assert request.path == "/v1/files/a%2Fb//c"
    assert request.method == "POST"


def test_header_lines_keep_their_duplicates_and_the_first_counts() -> None:
    lines = [("Cookie", "a=1"), ("Cookie", "b=2"), ("X-Request-Id", "one"), ("X-Request-Id", "two")]
    request = inbound(headers=lines, token=None)
    assert request.headers == [(name.upper(), value) for name, value in lines]
    assert request.header("COOKIE") == "a=1"
    assert request.request_id == "one"
    assert request.header("ABSENT") is None


def test_another_server_s_environ_will_do() -> None:
    made = environ("POST", headers=[("X-One", "1")], CONTENT_TYPE="text/plain", CONTENT_LENGTH="3")
    made["wsgi.input"] = object()
    request = ClientRequest(made, 0)
    assert request.header("X-ONE") == "1"
    assert request.header("CONTENT-TYPE") == "text/plain"
    assert request.body.length == 3
    del made["RAW_URI"]
    assert ClientRequest({**made, "REQUEST_URI": "/v1/other"}, 0).target == "/v1/other"


@pytest.mark.parametrize("sane", ["a", "req_1.2-3:4", "A" * 128])
def test_a_sane_request_id_is_kept(sane: str) -> None:
    assert request_id(sane) == sane
    assert inbound(headers=[("X-Request-ID", sane)]).request_id == sane


@pytest.mark.parametrize(
    "hostile",
    [
        None,
        "",
        "a b",
        "a\r\nSet-Cookie: x",
        "a" * 129,
        "é",
        "٣",
        "<script>",
        "a\n",
        "a,b",
        "sk-abcdefghijkl",
    ],
)
def test_a_hostile_one_is_replaced(hostile: str | None) -> None:
    given = request_id(hostile)
    assert given != hostile
    assert request_id(given) == given
    assert len({request_id(hostile) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("trusted", "lines", "expected"),
    [
        (0, [], "192.0.2.1"),
        (0, ["203.0.113.9"], "192.0.2.1"),
        (1, [], "192.0.2.1"),
        (1, ["203.0.113.9"], "203.0.113.9"),
        (1, ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (1, ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),  # the proxy added a line of its own
        (2, ["203.0.113.9, 10.0.0.1"], "203.0.113.9"),
        (2, ["6.6.6.6,203.0.113.9 ,\t10.0.0.1"], "203.0.113.9"),
        (2, ["6.6.6.6", "203.0.113.9", "10.0.0.1"], "203.0.113.9"),
        (2, ["203.0.113.9"], "203.0.113.9"),  # one proxy was passed by
        (2, [], "192.0.2.1"),
        (1, ["2001:db8::1"], "2001:db8::1"),
        (1, ["::ffff:203.0.113.9"], "203.0.113.9"),
        (1, ["[::FFFF:cb00:7109]:4711"], "203.0.113.9:4711"),
    ],
)
def test_client_address(trusted: int, lines: list[str], expected: str) -> None:
    headers = [("X-OTHER", "1.1.1.1"), *[("X-FORWARDED-FOR", line) for line in lines]]
    assert client_address(headers, {"REMOTE_ADDR": "192.0.2.1"}, trusted) == expected


@pytest.mark.parametrize("trusted", [0, 1])
def test_a_peer_on_a_dual_stack_socket(trusted: int) -> None:
    assert client_address([], {"REMOTE_ADDR": "::ffff:192.0.2.1"}, trusted) == "192.0.2.1"
    assert client_address([], {"REMOTE_ADDR": "2001:db8::1"}, trusted) == "2001:db8::1"


def test_a_unix_socket_has_no_address() -> None:
    assert client_address([], {}, 1) == ""


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/",
        "/v1//chat//completions",
        "/v1/models/gpt-4.1",
        "/v1/files/a%2Fb",
        "/v1/files/a%2fb%5Cc",
        "/v1/files/...",
        "/v1/.hidden",
        "/v1/a..b/..c/d..",
        "/v1/%zz/%",
        "/v1/a;b=c",
        "/v1/%252e%252e/x",  # decoded once it is a name
    ],
)
def test_paths_that_pass(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/..",
        "/v1/../manage/projects",
        "/v1/./models",
        "/v1/models/.",
        "/v1/%2e%2e/x",
        "/v1/%2E./x",
        "/v1/.%2e/x",
        "/v1/%2e/x",
        "/v1/a%2F..%2Fb",
        "/v1/a%2f%2e%2e%2fb",
        "/v1/..\\x",
        "/v1/a\\..\\b",
        "/v1/a%5c..%5cb",
        "/v1/..;/x",
        "/v1/..;a=b/x",
        "/v1/%2e%2e%3b/x",
        "/v1/.;/x",
        "/v1//../x",
    ],
)
def test_dot_segments_are_refused_however_written(path: str) -> None:
    with pytest.raises(ClientError) as caught:
        check_path(path)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v10/x", "//v1/x", "/%76%31/x", "v1/x", "/V1/x"])
def test_other_paths_are_no_endpoints(path: str) -> None:
    with pytest.raises(ClientError) as caught:
        check_path(path)
    assert (caught.value.status, caught.value.code) == (404, "endpoint_not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/proxy",
        "/v1/proxy/",
        "/v1/proxy/tokens",
        "/v1/proxy/tokens/",
        "/v1/proxy/anything",
        "/v1//proxy/tokens",
        "/v1/proxy//tokens",
        "/v1/%70roxy/tokens",
        "/v1/proxy%2Ftokens",
        "/v1/proxy%2ftokens",
        "/v1%2Fproxy/tokens/../x",
        "/v1/%2Fproxy/tokens",
        "/v1/Proxy/tokens",
        "/v1/PROXY/TOKENS",
        "/v1/proxy;x/tokens",
        "/v1/proxy;/tokens",
        "/v1/;x/proxy/tokens",
        "/v1/proxy%3Bx/tokens",
        "/v1/proxy%3Fx/tokens",
        "/v1/proxy%23/tokens",
        "/v1/proxy%00/tokens",
        "/v1/proxy%20/tokens",
        "/v1/%09proxy/tokens",
        "/v1/proxy\\tokens",
        "/v1\\proxy\\tokens".replace("\\", "/", 1),
        "/v1/%5cproxy/tokens",
        "/v1/%2570roxy/tokens",
        "/v1/%252570roxy/tokens",
        "/v1/%252e/proxy/tokens",
        "/v1/x/%252e%252e/proxy/tokens",
        "/v1/%252e%252e/v1/proxy",
        "/v1/%E2/../proxy",
    ],
)
def test_paths_that_may_be_read_as_the_proxy_s_are_not_relayed(path: str) -> None:
    with pytest.raises(ClientError) as caught:
        check_path(path)
    assert (caught.value.status, caught.value.code) == (404, "endpoint_not_found")


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/proxies", "/v1/proxy-models", "/v1/proxy_x", "/v1/proxy.json", "/v1/proxy~"),
        *("/v1/files/proxy", "/v1/files/proxy/tokens", "/v1/a%2Fproxy", "/v1/models/proxy/x"),
        *("/v1/v1/proxy/tokens", "/v1/%2570roxies", "/v1/xproxy/tokens"),
    ],
)
def test_other_names_are_not_reserved(path: str) -> None:
    check_path(path)


def body(
    pieces: list[Any], *, length: int | None = None, chunked: bool = False
) -> ClientRequestBody:
    return ClientRequestBody(Input([], pieces), length=length, chunked=chunked)


def test_no_body() -> None:
    for absent, exists in ((body([]), False), (body([], length=0), True)):
        assert (absent.exists, absent.finished) == (exists, True)
        assert absent.read_all(10) == b""
        assert absent._source.read == 0


def test_pieces_of_a_known_length() -> None:
    finished: list[int] = []
    source = body([b"ab", b"cde"], length=5)
    source.on_finished = lambda: finished.append(source.received)
    source.check_length(5)
    pieces = iter(source)
    assert (next(pieces), source.finished, finished) == (b"ab", False, [])
    # The last piece is known to be the last: no other is asked for.
    assert (next(pieces), source.finished, finished) == (b"cde", True, [5])
    assert list(pieces) == []
    assert source._source.read == 2
    assert list(source) == []
    assert finished == [5]


def test_pieces_of_an_unknown_length() -> None:
    finished: list[int] = []
    source = body([b"ab", b"c"], chunked=True)
    source.on_finished = lambda: finished.append(1)
    assert source.exists
    assert source.read_all(3) == b"abc"
    assert (source.received, source.finished, finished) == (3, True, [1])


def test_too_large_by_the_announced_length_is_refused_unread() -> None:
    source = body([b"x" * 11], length=11)
    with pytest.raises(ClientError) as caught:
        source.read_all(10)
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")
    assert (source._source.read, source.received, source.finished) == (0, 0, False)


def test_too_large_by_count_is_refused_before_reading_on() -> None:
    source = body([b"x" * 6, b"x" * 6, b"x" * 6], chunked=True)
    with pytest.raises(ClientError) as caught:
        source.read_all(10)
    assert (caught.value.status, source._source.read, source.finished) == (413, 2, False)


def test_a_truncated_body_is_refused_whatever_the_server() -> None:
    with pytest.raises(ClientError) as caught:
        body([b"abc"], length=5).read_all(10)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


def test_an_input_without_arrived_pieces() -> None:
    class Plain:
        def read(self, most: int) -> bytes:
            return b"abc"

    assert ClientRequestBody(Plain(), length=3, chunked=False).read_all(10) == b"abc"


def test_an_unread_body_is_abandoned() -> None:
    unread = inbound("POST", headers=[("Content-Length", "3")], pieces=[b"abc"])
    unread.discard_body()
    assert unread._source.abandoned == 1
    done = inbound("POST", headers=[("Content-Length", "3")], pieces=[b"abc"])
    done.body.read_all(10)
    done.discard_body()
    assert done._source.abandoned == 0
    other = inbound("POST")
    other._source = object()
    other.body.finished = False
    other.discard_body()


def test_a_large_body_is_joined_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[int] = []

    def join(pieces: list[bytes]) -> bytes:
        joined.append(len(pieces))
        return b"".join(pieces)

    monkeypatch.setattr(inbound_module, "joined", join)
    monkeypatch.setattr(inbound_module, "_MAX_PLAIN_JOIN_BYTES", 10)
    assert body([b"abcde", b"fghij"], length=10).read_all(99) == b"abcdefghij"
    assert joined == []
    assert body([b"abcde", b"fghijk"], length=11).read_all(99) == b"abcdefghijk"
    assert joined == [2]


def test_text_in_place_of_an_address_is_cut_and_cleaned() -> None:
    def said(text: str) -> str:
        request = inbound(headers=[("X-Forwarded-For", text)], REMOTE_ADDR="192.0.2.1")
        return client_address(request.headers, {"REMOTE_ADDR": "192.0.2.1"}, 1)

    assert said("198.51.100.7") == "198.51.100.7"
    assert said("sk-" + "a" * 22) == "[secret]"
    assert said("x" * 5000) == "x" * 100
    assert len(said("1" * 5000)) <= 100


def test_a_body_in_small_pieces_takes_about_its_own_memory() -> None:
    class Trickling:
        """A new object for each two bytes."""

        sent = 0

        def read_arrived(self, most: int) -> bytes:
            self.sent += 1
            return self.sent.to_bytes(4)[2:]

    source = Trickling()
    tracemalloc.start()
    try:
        whole = ClientRequestBody(source, length=200_000, chunked=False).read_all(200_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert whole == b"".join([number.to_bytes(4)[2:] for number in range(1, 100_001)])
    assert peak < 4 * len(whole)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_pieces_of_any_size_stay_in_their_order(count: int) -> None:
    pieces = [b"%d," % number * (1000 if number % 70 == 69 else 1) for number in range(count)]
    whole = b"".join(pieces)
    assert body(list(pieces), length=len(whole)).read_all(len(whole)) == whole
