"""A proxy whose projects keep responses, in front of an upstream that responds as a test says."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.support.comparable_response import HOP, OURS
from tests.support.fake_upstream import CHAT, Conversation, Headers, Received, Upstream
from tests.support.raw_client import RawClient, RawResponse
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

Behaviour = Callable[[Conversation], None]

CHAT_PATH = "/v1/chat/completions"
JSON_TYPE = ("Content-Type", "application/json")
SSE_TYPE = ("Content-Type", "text/event-stream; charset=utf-8")
_SCRIPT = re.compile(rb"script-[0-9]+")
#: What the cache says of itself.
_CACHE = {"x-cache", "cache-status", "age", "x-cache-timestamp", "x-cache-key"}


def whole(body: object, *lines: tuple[str, str], status: str = "200 OK") -> Behaviour:
    """A body that comes with its length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda talk: talk.answer(status, [JSON_TYPE, *lines], data)


def chunked(chunks: list[bytes], *lines: tuple[str, str]) -> Behaviour:
    """A body in chunks. Those of the first response wait for a permit of the gate each."""
    first = [True]

    def behave(talk: Conversation) -> None:
        is_gated = bool(first) and first.pop()
        talk.head("200 OK", [*lines, ("Transfer-Encoding", "chunked")])
        for chunk in chunks:
            if is_gated:
                talk.upstream.gate.acquire()
            talk.chunk(chunk)
        talk.end_chunks()

    return behave


class CacheUpstream(Upstream):
    """An upstream with scripts: a request whose target or body names one gets its response."""

    def __init__(self) -> None:
        super().__init__()
        self._scripts: dict[bytes, Behaviour] = {}

    def script(self, behaviour: Behaviour) -> str:
        """Return the name of a new script."""
        name = f"script-{len(self._scripts)}"
        self._scripts[name.encode()] = behaviour
        return name

    def change(self, name: str, behaviour: Behaviour) -> None:
        self._scripts[name.encode()] = behaviour

    def asked_for(self, name: str) -> list[Received]:
        """Return the requests for a script so far."""
        return [each for each in self.received if _name(each) == name.encode()]

    def permit(self, events: int = 1) -> None:
        for _ in range(events):
            self.gate.release()

    def answer(self, talk: Conversation) -> None:
        name = _name(talk.request)
        if name in self._scripts:
            self._scripts[name](talk)
        else:
            super().answer(talk)


def _name(request: Received) -> bytes:
    found = _SCRIPT.search(request.target.encode() + b"\n" + request.body)
    return b"" if found is None else found[0]


def asking(name: str, **more: Any) -> bytes:
    """The body of a request for a script."""
    body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], **more}
    return json.dumps(body).encode()


class CacheHouse:
    """The proxy and its upstream. Both are ended here."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.upstream = CacheUpstream()
        known = {"REVOCATION_INTERVAL": "0.2", "CACHE_TTL": "5m", "WEB_CONCURRENCY": "1"}
        self.proxy = ProxyServer(folder, self.upstream.url, **{**known, **settings}).start()
        self._events: dict[str, dict[str, Any]] = {}
        self._asked = self._projects = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        stopped = self.proxy.stop()
        self.upstream.stop()
        assert stopped == 0, self.proxy.log_text()
        assert "Traceback" not in self.proxy.log_text(), self.proxy.log_text()

    def project(self, **fields: Any) -> str:
        """Return the identifier of a new project."""
        self._projects += 1
        name = f"cached-{self._projects}"
        body = {"name": name, "api_key": "sk-upstream-real", "cache": "on", **fields}
        made = self.proxy.manage("POST", "/projects", body)
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    def token(self, **fields: Any) -> str:
        """Return a token of a new project."""
        return str(self.proxy.mint(self.project(**fields))["token"])

    def change(self, project_id: str, **fields: Any) -> None:
        changed = self.proxy.manage("PATCH", f"/projects/{project_id}", fields)
        assert changed.status_code == 200, changed.text

    def head(self, token: str, *lines: tuple[str, str]) -> Headers:
        self._asked += 1
        name = ("X-Request-ID", f"cache-{self._asked}")
        return [("Authorization", f"Bearer {token}"), name, *lines]

    def ask(
        self,
        token: str,
        body: bytes = b"",
        *lines: tuple[str, str],
        path: str = CHAT_PATH,
        method: str = "POST",
    ) -> RawResponse:
        with RawClient(self.proxy.port) as client:
            head = self.head(token, *([JSON_TYPE] if body else []), *lines)
            client.request(method, path, head, body)
            return client.read_response(method)

    def get(self, token: str, path: str, *lines: tuple[str, str]) -> RawResponse:
        return self.ask(token, b"", *lines, path=path, method="GET")

    def hit(self, token: str, body: bytes = b"", *lines: tuple[str, str], **to: str) -> RawResponse:
        """Ask until the response comes from the cache: it is stored after its last byte."""
        found: list[RawResponse] = []

        def hits() -> bool:
            found[:] = [self.ask(token, body, *lines, **to)]
            return found[0].values("X-Cache") == ["HIT"]

        wait_until(hits)
        return found[0]

    def settle(self) -> None:
        """Wait until what has come so far would be stored. With one worker only."""
        name = self.upstream.script(whole(CHAT))
        self.hit(self.token(), asking(name))

    def event(self, response: RawResponse) -> dict[str, Any]:
        (name,) = response.values("X-Proxy-Request-ID")
        return self.event_of(name)

    def event_of(self, name: str) -> dict[str, Any]:
        def arrived() -> bool:
            for each in self.proxy.events_so_far():
                self._events[each["request_id"]] = each
            return name in self._events

        wait_until(arrived, 30)
        return self._events[name]


def replayed(response: RawResponse) -> tuple[str, Headers, bytes, bool]:
    """Return what a hit and the response of the upstream have in common."""
    apart = HOP | OURS | _CACHE | {"set-cookie"}
    headers = [(name, value) for name, value in response.headers if name.lower() not in apart]
    return response.status_line, headers, response.body, response.clean
