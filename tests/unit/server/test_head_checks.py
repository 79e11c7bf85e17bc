"""What is refused of names, ``Host`` and targets, and what is not."""

import socket
from types import SimpleNamespace

import pytest

from proxy.core.errors import ClientError
from proxy.server.head_checks import check_host, check_name, check_target, origin_form


@pytest.mark.parametrize(
    "name", ["SESSION_ID", "CONVERSATION_ID", "X_TEAM", "_", "X-A_B", "OPENAI_BETA", "X_REQUEST_ID"]
)
def test_underscores_are_legal(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("CONTENT_LENGTH", "TRANSFER_ENCODING", "KEEP_ALIVE", "PROXY_CONNECTION"),
        *("PROXY_AUTHORIZATION", "X_API_KEY", "API_KEY", "X_GOOG_API_KEY", "X_GOOG-API_KEY"),
        *("X_FORWARDED_FOR", "X-FORWARDED_FOR", "X_REAL_IP", "CF_CONNECTING_IP", "TRUE_CLIENT_IP"),
        *("CONTENT_TYPE", "CONTENT_ENCODING", "ACCEPT_ENCODING", "MAX_FORWARDS"),
        *("X_HTTP_METHOD_OVERRIDE", "X_ORIGINAL_URL", "SEC_WEBSOCKET_PROTOCOL", "HTTP2_SETTINGS"),
    ],
)
def test_a_twin_of_what_is_read_is_refused(name: str) -> None:
    with pytest.raises(ClientError) as refused:
        check_name(name)
    assert refused.value.status == 400
    assert f"`{name.lower()}`" in str(refused.value)
    assert f"`{name.replace('_', '-').title()}`" in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        *("", "a", "a.example", "a.example:443", "a:", "127.0.0.1:8080", "[::1]", "[::1]:8080"),
        *("my_service:8080", "xn--e1afmkfd.example", "a%20b", "[fe80::1%25eth0]:1", "A-b.c:65535"),
    ],
)
def test_one_host(value: str) -> None:
    check_host(value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "a, b",
            "a,b",
            "a b",
            "a\tb",
            "a/b",
            "a?x",
            "a#b",
            "u@a",
            "u:p@a",
            "a\\b",
            "a:b",
            "a:1:2",
        ),
        *("a:65536", "a:999999", "a:+1", "a:-1", "a:1x", "::1", "[::1", "::1]", "[]", "[a]b", "é"),
        *("a:1:2", "http://a", "a;b/c", "a\x00", "a:\xb2", '"a"', "<a>", "{a}"),
    ],
)
def test_what_is_no_host(value: str) -> None:
    with pytest.raises(ClientError, match="`Host`"):
        check_host(value)


def test_a_fragment_is_not_for_a_server() -> None:
    check_target("/v1/models?a=b")
    for target in ("/v1/models#", "/v1/models#a", "/v1/models?a#b", "http://h/#a"):
        with pytest.raises(ClientError, match="fragment"):
            check_target(target)


def unreader(name: object) -> SimpleNamespace:
    return SimpleNamespace(sock=SimpleNamespace(getsockname=lambda: name))


@pytest.mark.parametrize(
    ("target", "host", "name", "expected"),
    [
        ("http://h/v1/x?a=b", "h", ("10.0.0.1", 8080), "/v1/x?a=b"),
        ("http://H:80/v1/x", "h", ("10.0.0.1", 8080), "/v1/x"),
        ("HTTPS://h/v1/x", "h:443", ("10.0.0.1", 8080), "/v1/x"),
        ("http://h:8080/v1/x", "h:8080", ("10.0.0.1", 8080), "/v1/x"),
        ("http://h", "h", None, "/"),
        ("http://h?a=/b", "h", None, "/?a=/b"),
        ("http://10.0.0.1:8080/v1/x", "h", ("10.0.0.1", 8080), "/v1/x"),
        ("http://10.0.0.1:8080/v1/x", None, ("10.0.0.1", 8080), "/v1/x"),
        ("http://10.0.0.1:8080/v1/x", None, ("::ffff:10.0.0.1", 8080, 0, 0), "/v1/x"),
        ("http://[::1]:8080/v1/x", "h", ("::1", 8080, 0, 0), "/v1/x"),
        ("http://[::1]/v1/x", "h", ("::1", 80, 0, 0), "/v1/x"),
        ("http://h/v1/a//b/%2e", "h", None, "/v1/a//b/%2e"),
    ],
)
def test_an_absolute_form_of_our_own(
    target: str, host: str | None, name: object, expected: str
) -> None:
    assert origin_form(target, host, unreader(name)) == expected


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://other/v1/x", "h"),
        ("http://h:8080/v1/x", "h"),
        ("https://h/v1/x", "h:80"),
        ("http://h/v1/x", None),
        ("http:///v1/x", ""),
        ("http://u:p@h/v1/x", "h"),
        ("http://h, i/v1/x", "h"),
        ("http://10.0.0.1:81/v1/x", "h"),
    ],
)
def test_an_absolute_form_of_another(target: str, host: str | None) -> None:
    with pytest.raises(ClientError) as refused:
        origin_form(target, host, unreader(("10.0.0.1", 80)))
    assert refused.value.status == 400


@pytest.mark.parametrize("target", ["*", "h:80", "ftp://h/x", "v1/models", "http:/x"])
def test_other_forms_are_left_alone(target: str) -> None:
    assert origin_form(target, "h", unreader(None)) == target


def test_a_connection_without_an_address() -> None:
    def gone() -> object:
        raise OSError

    broken = SimpleNamespace(sock=SimpleNamespace(getsockname=gone))
    for source in (broken, SimpleNamespace(), unreader("/run/socket")):
        assert origin_form("http://h/x", "h", source) == "/x"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        source = SimpleNamespace(sock=sock)
        assert origin_form(f"http://127.0.0.1:{port}/x", "h", source) == "/x"
