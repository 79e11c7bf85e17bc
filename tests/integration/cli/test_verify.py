"""proxy/cli/verify.py: the real proxy passes, and a component that tampers on the way is named."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import orjson
import pytest
from gevent.server import StreamServer

from tests.support.cli_runner import Run
from tests.support.fake_upstream import Upstream
from tests.support.server import UPSTREAM_KEY, ProxyServer

Verify = Callable[..., tuple[int, str]]
Tamper = Callable[[bytes], bytes]


class Meddler:
    """In front of the proxy: waits for the whole answer and passes on what ``tamper`` makes of it.

    With ``tamper`` None it pipes every piece as it comes.
    """

    def __init__(self, port: int, tamper: Tamper | None) -> None:
        self._port = port
        self._tamper = tamper
        self.server = StreamServer(("127.0.0.1", 0), self._serve)
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _serve(self, sock: socket.socket, _: object) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += sock.recv(65536)
        with sock, socket.create_connection(("127.0.0.1", self._port)) as proxy:
            # The proxy's closing is then the end of the answer.
            proxy.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            pump = gevent.spawn(self._upload, sock, proxy)
            answer = b""
            while piece := proxy.recv(65536):
                if self._tamper is None:
                    sock.sendall(piece)
                answer += piece
            if self._tamper is not None:
                sock.sendall(self._tamper(answer))
            pump.kill()

    def _upload(self, sock: socket.socket, proxy: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := sock.recv(65536):
                proxy.sendall(piece)


@pytest.fixture
def meddle(proxy: ProxyServer) -> Iterator[Callable[[Tamper | None], str]]:
    made: list[Meddler] = []

    def start(tamper: Tamper | None) -> str:
        made.append(Meddler(proxy.port, tamper))
        return made[-1].url

    yield start
    for meddler in made:
        meddler.server.stop(timeout=1)


@pytest.fixture
def verify(
    run: Run, proxy: ProxyServer, upstream: Upstream, token: str, monkeypatch: pytest.MonkeyPatch
) -> Verify:
    """Exit code and output; neither secret may ever be in it."""
    monkeypatch.setenv("PROXY_TOKEN", token)
    monkeypatch.setenv("OPENAI_API_KEY", UPSTREAM_KEY)
    monkeypatch.setenv("UPSTREAM_BASE_URL", upstream.url)
    monkeypatch.setenv("PROXY_BASE_URL", proxy.url)

    def invoke(*arguments: str) -> tuple[int, str]:
        result = run("verify", *arguments)
        assert token not in result.output
        assert UPSTREAM_KEY not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.output

    return invoke


@pytest.fixture
def pace(upstream: Upstream) -> Iterator[None]:
    """A gated stream goes on a step now and then."""

    def tick() -> None:
        while True:
            gevent.sleep(0.03)
            if upstream.gate.locked():
                upstream.gate.release()

    ticking = gevent.spawn(tick)
    yield
    ticking.kill()


def request_file(folder: Path, text: str) -> str:
    path = folder / "request.http"
    path.write_bytes(text.encode())
    return str(path)


def test_the_built_in_set_passes(verify: Verify) -> None:
    code, output = verify()
    assert code == 0, output
    assert output.endswith("No undocumented difference.\n")
    assert "differs" not in output
    assert "varies" not in output
    code, output = verify("--exact", "--json")
    report = orjson.loads(output)
    assert (code, report["faithful"]) == (0, True)
    assert [(row["name"], row["code"]) for row in report["requests"]] == [
        ("models", 200),
        ("chat", 200),
        ("chat, streamed", 200),
        ("embeddings", 200),
        ("unknown model", 404),
        ("head", 404),
        ("odd path", 404),
    ]


def test_both_get_the_same_request_each_with_its_own_bearer(
    verify: Verify, upstream: Upstream, token: str
) -> None:
    upstream.reset()
    verify("--model", "some-model")
    direct, relayed = upstream.received[::2], upstream.received[1::2]
    assert [(r.method, r.target, r.body) for r in direct] == [
        (r.method, r.target, r.body) for r in relayed
    ]
    assert orjson.loads(direct[1].body)["model"] == "some-model"
    assert {r.values("Authorization")[0] for r in direct} == {f"Bearer {UPSTREAM_KEY}"}


def test_what_the_contract_names_is_shown_on_request(verify: Verify, tmp_path: Path) -> None:
    file = request_file(tmp_path, "GET /v1/behave/odd-headers\n\n")
    code, output = verify("--request", file, "--verbose")
    assert code == 0, output
    for line in (
        "documented: dropped or replaced: X-Hop: must go",
        "documented: the proxy's own: Server: gunicorn",
        "documented: added: X-Proxy-Request-ID: ",
        "direct: head_ms",
    ):
        assert line in output
    assert "documented: " not in verify("--request", file)[1]


@pytest.mark.parametrize(
    "name", ["gzip", "trailers", "interim", "until-close", "no-content", "redirect", "no-reason"]
)
def test_odd_responses_pass(verify: Verify, tmp_path: Path, name: str) -> None:
    file = request_file(tmp_path, f"GET /v1/behave/{name}\nAccept-Encoding: gzip, br\n\n")
    code, output = verify("--request", file, "--exact")
    assert code == 0, output


def test_a_cut_response_is_cut_on_both_sides(verify: Verify, tmp_path: Path) -> None:
    file = request_file(tmp_path, "GET /v1/behave/cut-chunked\n\n")
    assert verify("--request", file, "--exact")[0] == 0


def test_an_error_and_an_upload_from_files(verify: Verify, tmp_path: Path) -> None:
    body = '{"model": "error-429", "messages": []}'
    error = request_file(
        tmp_path, f"POST /v1/chat/completions\nContent-Type: application/json\n\n{body}"
    )
    upload = tmp_path / "upload.http"
    upload.write_bytes(b"POST /v1/files HTTP/1.1\r\nX-A: b\r\n\r\n" + bytes(range(256)) * 2000)
    code, output = verify("--request", error, "--request", str(upload), "--json")
    report = orjson.loads(output)
    assert code == 0, output
    assert [(row["name"], row["code"]) for row in report["requests"]] == [
        ("request.http", 429),
        ("upload.http", 200),
    ]


# Proxies that are not faithful.


@pytest.mark.parametrize(
    ("target", "tamper", "aspect", "text"),
    [
        (
            "models",
            lambda data: data.replace(b"Content-Type:", b"content-type:"),
            "headers",
            "case: Content-Type → content-type",
        ),
        ("models", lambda data: data.replace(b'"list"', b'"lisT"'), "body", "30 → 30 bytes"),
        ("models", lambda data: data.replace(b" 200 OK", b" 200 Fine"), "status", "'OK' → 'Fine'"),
        ("models", lambda data: data.replace(b" 200 OK", b" 503 No"), "status", "200 OK → 503 No"),
        ("models", lambda data: data[:-3], "framing", "cut short"),
        (
            "models",
            lambda data: data.replace(b"req_upstream", b"req_other"),
            None,
            "No undocumented difference.",
        ),
        (
            "behave/odd-headers",
            lambda data: data.replace(b"Set-Cookie: b=2; Path=/\r\n", b""),
            "headers",
            "Set-Cookie: 2 lines → one line",
        ),
        (
            "behave/odd-headers",
            lambda data: data.replace(b"x-lower: kept\r\nSet-Cookie: b=2; Path=/\r\n", b"").replace(
                b"X-Empty", b"Set-Cookie: b=2; Path=/\r\nx-lower: kept\r\nX-Empty"
            ),
            "headers",
            "order, from line 2 on: x-lower → set-cookie",
        ),
        (
            "behave/odd-headers",
            lambda data: data.replace(b"X-Empty: \r\n", b"X-Empty: now\r\n"),
            "headers",
            "X-Empty: '' → 'now'",
        ),
        ("models", lambda data: b"", "status", "before the end of the response head"),
        (
            "models",
            lambda data: data.replace(b"X-Proxy-Request-ID", b"X-Other"),
            "headers",
            "does --base-url lead to the proxy?",
        ),
    ],
)
def test_tampering_is_named(
    verify: Verify,
    meddle: Callable[[Tamper | None], str],
    tmp_path: Path,
    target: str,
    tamper: Tamper,
    aspect: str | None,
    text: str,
) -> None:
    file = request_file(tmp_path, f"GET /v1/{target}\n\n")
    code, output = verify("--request", file, "--base-url", meddle(tamper))
    assert text in output
    if aspect is None:
        assert code == 0
        assert "varies" in output
    else:
        assert code == 1
        assert f"request.http: {aspect}: " in output
        assert "differs" in output


def test_a_changed_word_of_generated_text_is_found_with_exact(
    verify: Verify, meddle: Callable[[Tamper | None], str]
) -> None:
    url = meddle(lambda data: data.replace(b"Hello there.", b"Hello_there."))
    code, output = verify("--base-url", url)
    assert code == 0, output
    assert "varies" in output
    code, output = verify("--base-url", url, "--exact")
    assert code == 1
    assert "chat: body: 387 → 387 bytes, from byte" in output


def test_a_changed_structure_is_found_without(
    verify: Verify, meddle: Callable[[Tamper | None], str]
) -> None:
    url = meddle(lambda data: data.replace(b'"cached_tokens"', b'"hidden_tokens"'))
    code, output = verify("--base-url", url)
    assert code == 1
    assert "chat: body: structure: " in output
    assert "chat, streamed: body: structure: " in output


@pytest.mark.usefixtures("pace")
def test_a_stream_that_is_held_back(verify: Verify, meddle: Callable[[Tamper | None], str]) -> None:
    code, output = verify("--model", "gated", "--base-url", meddle(None))
    assert code == 0, output
    code, output = verify("--model", "gated", "--base-url", meddle(lambda data: data))
    assert code == 1
    assert "chat, streamed: timing: held back: came in" in output
    assert "\n1 difference.\n" in output


def test_the_proxys_own_response_compares_nothing(verify: Verify, tmp_path: Path) -> None:
    file = request_file(tmp_path, "GET /v1/models\n\n")
    code, output = verify("--request", file, "--token", "sk-AAAAAAAAAAAAAAAAAAAAAA")
    assert code == 1
    assert "status: the proxy did not ask the upstream: 401 Unauthorized (token_not_found: " in (
        output
    )
    assert "headers: " not in output
    assert "sk-AAAA" not in output


def test_cors_of_the_proxy_is_no_difference(
    verify: Verify, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> None:
    folder = tmp_path_factory.mktemp("cors")
    origins = "https://app.example.com"
    server = ProxyServer(folder, upstream.url, CORS_ALLOWED_ORIGINS=origins).start()
    try:
        own_token = server.mint(server.create_project()["id"])["token"]
        preflight = "OPTIONS /v1/models\nOrigin: https://a.test\nAccess-Control-Request-Method: GET"
        for text in ("GET /v1/models", preflight, f"GET /v1/models\nOrigin: {origins}"):
            file = request_file(tmp_path, f"{text}\n\n")
            code, output = verify(
                "--request", file, "--base-url", server.url, "--token", own_token, "--verbose"
            )
            assert code == 0, output
            assert "documented: CORS" in output or "documented: added: Vary: Origin" in output
    finally:
        server.stop()


# Usage.


def test_an_address_without_a_server(verify: Verify) -> None:
    for option in ("--base-url", "--direct-url"):
        code, output = verify(option, "http://127.0.0.1:9")
        assert code == 1
        assert "no response from http://127.0.0.1:9: " in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--base-url", "nowhere"],
        ["--direct-url", "http://user:secret@host"],
        ["--direct-url", "http://host:99999"],
        ["--request", "/does/not/exist"],
        ["--nothing"],
    ],
)
def test_wrong_usage(verify: Verify, arguments: list[str]) -> None:
    code, output = verify(*arguments)
    assert code == 2
    assert "secret" not in output


def test_a_file_that_is_no_request(verify: Verify, tmp_path: Path) -> None:
    code, output = verify("--request", request_file(tmp_path, "GET /elsewhere\n\n"))
    assert code == 2
    assert "/v1/" in output


def test_bearers_must_be_given(run: Run) -> None:
    missing_token = run("verify")
    missing_key = run("verify", "--token", "sk-x")
    assert (missing_token.exit_code, missing_key.exit_code) == (2, 2)
    assert "PROXY_TOKEN" in missing_token.output
    assert "OPENAI_API_KEY" in missing_key.output


def test_keys_that_others_quote_are_not_shown(
    verify: Verify, meddle: Callable[[Tamper | None], str], tmp_path: Path, token: str
) -> None:
    quoted = f"req_{token} sk-ab***yz \x1b[31m".encode()
    url = meddle(lambda data: data.replace(b"application/json", quoted))
    file = request_file(tmp_path, "GET /v1/models\n\n")
    code, output = verify("--request", file, "--base-url", url)
    assert code == 1
    assert "req_*** sk-*** " in output
    assert "\x1b" not in output
