"""The request to the upstream: the client's, without what concerns only the client and the proxy.

JSON bodies are read whole here, and so are bodies that a policy must read. All others are read
while they are sent.

Note: a client that wants to hide its usage spells the path or the content type in another way that
its upstream still understands.
"""

from urllib.parse import unquote

from proxy.core.media_type import is_json
from proxy.gateway.generating_endpoints import generating
from proxy.gateway.held_bodies import HeldBodies
from proxy.gateway.methods import one_hop_less
from proxy.gateway.request import ClientRequest
from proxy.policy.policy import Policy
from proxy.providers.base import OutboundRequest
from proxy.upstream.headers import Headers, upgrade_headers, upstream_headers
from proxy.usage.request_usage import ask_for_usage


def outbound_request(
    inbound: ClientRequest,
    policy: Policy,
    *,
    request_bytes: int,
    json_bytes: int,
    bodies: HeldBodies,
    keep_authorization: bool = False,
    usage_limited: bool = False,
    names_model: bool = False,
) -> OutboundRequest:
    """Build the request that goes upstream.

    ``request_bytes`` is the maximum of any body, ``json_bytes`` that of a body that is held whole,
    and ``bodies`` the room for all of those. With ``keep_authorization`` the client's own key is
    forwarded. ``usage_limited`` means that the LLM tokens of the request count against a limit.

    Raises ClientError: 413 by the announced length before a byte is read, or by count; 400
    truncated; 408 too slow. Raises Overloaded when too much is held.
    """
    body = inbound.body
    headers = _forwarded(
        upstream_headers(inbound.headers, keep_authorization=keep_authorization), policy
    )
    if inbound.method == "OPTIONS":
        headers = one_hop_less(headers)
    target = inbound.target.encode("latin-1")
    if not body.exists:
        return OutboundRequest(inbound.method, target, headers, None)
    held = policy.reads or names_model or is_json(inbound.header("CONTENT-TYPE"))
    if not held and usage_limited:
        held = generating(inbound.method, inbound.path) is not None
    if held or (policy.inject_usage and inbound.method == "POST" and _is_chat(inbound.path)):
        data = bodies.read(body, min(json_bytes, request_bytes))
        headers.append(("Content-Length", str(len(data))))
        return OutboundRequest(inbound.method, target, headers, data)
    body.check_length(request_bytes)
    if body.length is not None:
        headers.append(("Content-Length", str(body.length)))
        if not body.length:
            return OutboundRequest(inbound.method, target, headers, b"")
        # A body that came with its head is not streamed. It can be sent on a kept connection, since
        # it can be sent again if that turns out to be closed.
        whole = body.read_all(request_bytes) if body.arrived else None
        return OutboundRequest(inbound.method, target, headers, whole or body)
    headers.append(("Transfer-Encoding", "chunked"))
    return OutboundRequest(inbound.method, target, headers, body, chunked=True)


def requesting_usage(request: OutboundRequest) -> OutboundRequest | None:
    """Return a streamed chat (or completion) that asks for usage and an uncompressed response.

    Returns None when ``request`` goes out unchanged.
    """
    # Bodies of other paths need not be held. Compressed ones, and forms, are not JSON and stay
    # unchanged.
    if request.method != "POST" or not isinstance(request.body, bytes):
        return None
    if not _is_chat(request.target.partition(b"?")[0].decode("latin-1")):
        return None
    body = ask_for_usage(request.body)
    return None if body is None else with_body(request, body)


def with_body(request: OutboundRequest, body: bytes) -> OutboundRequest:
    """Return ``request`` with a body that asks for the usage, and without compression."""
    replaced = ("Accept-Encoding", "Content-Length")
    headers: Headers = [line for line in request.headers if line[0] not in replaced]
    headers += [("Accept-Encoding", "identity"), ("Content-Length", str(len(body)))]
    return OutboundRequest(request.method, request.target, headers, body)


def _is_chat(path: str) -> bool:
    if "%" in path:
        path = unquote(path, "latin-1")
    return path.endswith("/chat/completions") or path == "/v1/completions"


def outbound_upgrade(
    inbound: ClientRequest, policy: Policy, *, keep_authorization: bool = False
) -> OutboundRequest:
    """Build the opening handshake of a WebSocket; ``keep_authorization`` as above."""
    headers = _forwarded(
        upgrade_headers(inbound.headers, keep_authorization=keep_authorization), policy
    )
    return OutboundRequest(inbound.method, inbound.target.encode("latin-1"), headers, None)


def _forwarded(headers: Headers, policy: Policy) -> Headers:
    if not policy.forwarded:
        return headers
    return [line for line in headers if policy.forwards(line[0])]
