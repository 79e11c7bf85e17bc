"""Responses made by hand, for the tests of `proxy/tools/verify/`."""

from typing import Any

from proxy.tools.verify.raw_client import Headers, WireResponse

PROXIED: Headers = (
    ("X-Proxy-Request-ID", "1"),
    ("X-Upstream-Request-Start", "2"),
)


def answer(body: bytes = b"", headers: Headers = (), **fields: Any) -> WireResponse:
    """200 with a length, in one piece."""
    made: dict[str, Any] = {
        "version": "HTTP/1.1",
        "status": 200,
        "reason": "OK",
        "headers": headers,
        "framing": "length",
        "body": body,
        "clean": True,
        "head_after": 0.1,
        "pieces": ((0.0, len(body)),) if body else (),
    }
    return WireResponse(**made | fields)


def proxied(body: bytes = b"", headers: Headers = (), **fields: Any) -> WireResponse:
    return answer(body, (*headers, *PROXIED), **fields)
