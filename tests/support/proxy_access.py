"""Proxies for the end-to-end tests, and the access of a client to one of them."""

from dataclasses import dataclass
from pathlib import Path

from tests.support.fake_upstream import Received, Upstream
from tests.support.raw_client import RawClient, RawResponse
from tests.support.server import UPSTREAM_KEY, ProxyServer


@dataclass
class Access:
    """A project and a token of it."""

    project_id: str
    token_id: str
    token: str

    @property
    def bearer(self) -> tuple[str, str]:
        return ("Authorization", f"Bearer {self.token}")


@dataclass
class Call:
    """Sends the same request through the proxy, or straight to the upstream."""

    proxy: ProxyServer
    upstream: Upstream
    access: Access

    def relayed(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> RawResponse:
        return self._send(
            self.proxy.port, method, target, [self.access.bearer, *(headers or [])], body
        )

    def direct(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> RawResponse:
        key = ("Authorization", f"Bearer {UPSTREAM_KEY}")
        return self._send(self.upstream.port, method, target, [key, *(headers or [])], body)

    def last(self) -> Received:
        return self.upstream.received[-1]

    def _send(
        self, port: int, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> RawResponse:
        with RawClient(port) as client:
            client.request(method, target, headers, body)
            return client.read_response(method)


class ProxyFactory:
    """Makes proxies, each in a folder of its own."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self._folder = folder
        self._upstream = upstream
        self.made: list[ProxyServer] = []

    def __call__(self, **settings: str) -> ProxyServer:
        folder = self._folder / f"proxy-{len(self.made)}"
        server = ProxyServer(folder, self._upstream.url, **settings)
        self.made.append(server)
        return server

    def started(self, **settings: str) -> tuple[ProxyServer, Access]:
        """Serving, with a project and a token."""
        server = self(**settings).start()
        project = server.create_project()
        token = server.mint(project["id"])
        return server, Access(project["id"], token["id"], token["token"])
