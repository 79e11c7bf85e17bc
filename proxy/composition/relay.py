"""The way of a request to the upstream: one session over our adapter, and what bounds a request."""

import requests

from proxy.relay.adapter import UpstreamAdapter
from proxy.relay.transport import SessionTransport
from proxy.settings import Settings
from proxy.web.bounds import Bounds
from proxy.web.held import HeldBodies


def upstream_adapter(settings: Settings) -> UpstreamAdapter:
    return UpstreamAdapter(
        pool_size=settings.upstream_pool_size,
        connect_timeout=settings.upstream_connect_timeout,
        proxy_url=settings.upstream_proxy_url,
    )


def session_transport(settings: Settings, adapter: UpstreamAdapter) -> SessionTransport:
    session = requests.Session()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return SessionTransport(
        session,
        connect_timeout=settings.upstream_connect_timeout,
        read_timeout=settings.upstream_read_timeout,
    )


def bounds(settings: Settings) -> Bounds:
    return Bounds(
        request_bytes=settings.max_request_bytes,
        json_bytes=settings.max_json_bytes,
        # One body alone may be as large as it likes, up to its own bounds.
        held=HeldBodies(settings.held_bodies_max_bytes),
        trusted_proxies=settings.trusted_proxies,
        sse_keepalive=settings.sse_keepalive,
    )
