"""One worker's whole path in this process: a real socket in front, a real socket behind.

Counts what happens in the greenlet that serves, so that a figure is the same on any machine.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import gevent
import gevent.socket
import greenlet
from gevent.event import Event
from gevent.server import StreamServer
from gunicorn.config import Config
from gunicorn.glogging import Logger

from proxy.app import Application, create_app
from proxy.server.connections import Connections
from proxy.server.request_parser import head_class
from proxy.server.worker import ProxyWorker
from proxy.settings.settings import Settings
from proxy.store.database import Database
from proxy.store.migrate import Migrator
from proxy.tools.http1_reader import ResponseReader

MANAGEMENT = "management-token-of-the-guards"
CHAT = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1677652288,"model":"gpt-4.1",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":12,'
    b'"total_tokens":21}}'
)
#: Header lines of a real answer, so that what costs something per line is counted in full.
ANSWER_LINES = b"".join(
    b"%s: %s\r\n" % pair
    for pair in [
        (b"Date", b"Fri, 20 Nov 2026 10:00:00 GMT"),
        (b"Content-Type", b"application/json"),
        (b"Connection", b"keep-alive"),
        (b"openai-organization", b"org"),
        (b"openai-processing-ms", b"312"),
        (b"openai-version", b"2020-10-01"),
        (b"x-ratelimit-limit-requests", b"10000"),
        (b"x-ratelimit-remaining-requests", b"9999"),
        (b"x-ratelimit-reset-requests", b"6ms"),
        (b"x-request-id", b"req_0123456789abcdef"),
        (b"Set-Cookie", b"__cf_bm=x; path=/"),
        (b"Set-Cookie", b"_cfuvid=y; path=/"),
        (b"Server", b"cloudflare"),
    ]
)
BUFFERED = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (ANSWER_LINES, len(CHAT), CHAT)
EVENT = b'data: {"id":"chatcmpl-1","model":"gpt-4.1","choices":[{"delta":{"content":"word"}}]}\n\n'
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%X\r\n%b\r\n" % (len(data), data)


class WarmWorker:
    """Started and ended by ``with``; then :meth:`ask` and :meth:`counting`."""

    def __init__(self, folder: Path, **changes: str) -> None:
        """``changes``: settings."""
        self.upstream = StreamServer(("127.0.0.1", 0), self._upstream)
        self.upstream.start()
        #: What the upstream sends for a request, piece by piece; a piece waits for `go`.
        self.pieces = [BUFFERED]
        self.go = Event()
        self.body = b'{"model":"gpt-4.1","messages":[{"role":"user","content":"Hi"}]}'
        settings = Settings.load(
            {
                "MANAGEMENT_TOKEN": MANAGEMENT,
                "ENCRYPTION_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
                "DATA_DIR": str(folder),
                "EVENT_LOG": str(folder / "events.jsonl"),
                "UPSTREAM_BASE_URL": f"http://127.0.0.1:{self.upstream.server_port}",
                **changes,
            }
        )
        Migrator(Database.from_url(settings.database.url)).migrate()
        self.app: Application = create_app(settings)
        self.worker = _worker(self.app)
        self.client, self._server = gevent.socket.socketpair()
        self.client.settimeout(20)
        self._serving: Any = None
        self._received = b""

    def __enter__(self) -> Self:
        self.app.start()
        self._serving = gevent.spawn(
            self.worker.handle, self.upstream.socket, self._server, ("127.0.0.1", 5)
        )
        project = self._manage("/manage/projects", b'{"name":"p","api_key":"sk-upstream-key-0123"}')
        made = self._manage(
            "/manage/tokens", b'{"project_id":"%s","duration_minutes":60}' % _field(project, b"id")
        )
        self.token = _field(made, b"token")
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        gevent.joinall([self._serving], timeout=20)
        self.app.close(1)
        self.upstream.stop()

    def serve(self, dialect: str) -> None:
        """Send what is asked for from now on to a provider of this dialect, the upstream here."""
        origin = f"http://127.0.0.1:{self.upstream.server_port}"
        rows: list[tuple[str, dict[str, Any]]] = [
            (
                "providers",
                {
                    "name": dialect,
                    "provider_type": dialect,
                    "base_url": origin,
                    "config": {"allow_private": True},
                },
            ),
            ("keys", {"provider": dialect, "name": "k", "value": f"sk-upstream-{dialect}-0123"}),
            (
                "mappings",
                {
                    "alias_name": dialect,
                    "provider": dialect,
                    "provider_model_name": "gpt-4.1",
                    "order_index": 0,
                },
            ),
        ]
        for kind, row in rows:
            self._manage(f"/manage/{kind}", json.dumps(row).encode())
        project = self._manage(
            "/manage/projects", json.dumps({"name": dialect, "providers": [dialect]}).encode()
        )
        made = self._manage(
            "/manage/tokens", b'{"project_id":"%s","duration_minutes":60}' % _field(project, b"id")
        )
        self.token = _field(made, b"token")
        self.body = (
            b'{"model":"%b","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
            % dialect.encode()
        )

    def request(self) -> bytes:
        body = self.body
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
            b"Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\n"
            b"Connection: keep-alive\r\nContent-Type: application/json\r\n"
            b"User-Agent: OpenAI/Python 3.52.0\r\nX-Stainless-Lang: python\r\n"
            b"X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
            b"X-Stainless-Retry-Count: 0\r\nAuthorization: Bearer %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (self.token, len(body), body)
        )

    def ask(self, end: bytes = CHAT) -> bytes:
        """One request; its answer up to and including ``end``."""
        self.client.sendall(self.request())
        return self.read(end)

    def read(self, end: bytes) -> bytes:
        while end not in self._received:
            data = self.client.recv(65536)
            assert data, self._received
            self._received += data
        at = self._received.index(end) + len(end)
        answer, self._received = self._received[:at], self._received[at:]
        return answer

    def settle(self) -> None:
        """Until the greenlet that serves waits for the next request."""
        while not self.worker._connections.idle:
            gevent.sleep(0)
        gevent.sleep(0)

    @contextmanager
    def counting_opcodes(self) -> Iterator[list[int]]:
        """How many opcodes the frames execute that the serving greenlet enters meanwhile."""
        found = [0]

        def step(frame: Any, kind: str, argument: Any) -> Any:
            if kind == "opcode":
                found[0] += 1
            return step

        def enter(frame: Any, kind: str, argument: Any) -> Any:
            if gevent.getcurrent() is not self._serving:
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return step

        sys.settrace(enter)
        try:
            yield found
        finally:
            sys.settrace(None)

    @contextmanager
    def counting_switches(self) -> Iterator[list[int]]:
        """How often the serving greenlet is switched to meanwhile."""
        found = [0]

        def note(kind: str, ends: Any) -> None:
            if ends[1] is self._serving:
                found[0] += 1

        greenlet.settrace(note)
        try:
            yield found
        finally:
            greenlet.settrace(None)

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """What the serving greenlet calls meanwhile: Python functions by their place, C by name."""
        calls: Counter[str] = Counter()

        def note(frame: Any, kind: str, argument: Any) -> None:
            if gevent.getcurrent() is not self._serving:
                return
            if kind == "call":
                code = frame.f_code
                calls[f"{Path(code.co_filename).name}:{code.co_name}"] += 1
            elif kind == "c_call":
                calls[f"C:{argument.__name__}"] += 1

        sys.setprofile(note)
        try:
            yield calls
        finally:
            sys.setprofile(None)

    def _manage(self, path: str, body: bytes) -> bytes:
        self.client.sendall(
            b"POST %b HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (path.encode(), MANAGEMENT.encode(), len(body), body)
        )
        reader, answer = ResponseReader(), b""
        while not reader.ended:
            answer += reader.read(self.client.recv(65536))
            assert not reader.problem, reader.problem
        return answer

    def _upstream(self, sock: Any, address: object) -> None:
        data = b""
        while True:
            piece = sock.recv(65536)
            if not piece:
                return
            data += piece
            head, found, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            if not found or len(body) < length:
                continue
            data = b""
            for number, out in enumerate(self.pieces):
                if number:
                    self.go.wait()
                    self.go.clear()
                sock.sendall(out)


def _worker(app: Application) -> ProxyWorker:
    """As after gunicorn's fork, without its process."""
    config = Config()
    for name, value in {
        "http_parser": "python",
        "limit_request_field_size": 32760,
        "header_map": "refuse",
        "permit_unconventional_http_method": True,
    }.items():
        config.set(name, value)
    worker: ProxyWorker = object.__new__(ProxyWorker)
    worker.cfg = config
    worker.log = Logger(config)
    worker.wsgi = app
    worker.alive = True
    worker._connections = Connections()
    worker._stopping = Event()
    worker._head_class = head_class(config)
    return worker


def _field(answer: bytes, name: bytes) -> bytes:
    return answer.partition(b'"%b":"' % name)[2].partition(b'"')[0]
