"""OpenAI, and every service that speaks its API: passed through, with the key swapped."""

from proxy.providers.base import OutboundRequest, PreparedCall, Target


class OpenAIProvider:
    """Host first (RFC 9110 §7.2), then the client's lines in their order, then the key."""

    def prepare(
        self, request: OutboundRequest, target: Target, upstream_key: str | None
    ) -> PreparedCall:
        headers = [("Host", target.host), *request.headers]
        if upstream_key is not None:
            headers.append(("Authorization", f"Bearer {upstream_key}"))
        path = target.prefix.encode("latin-1") + request.target
        return PreparedCall(
            url=target.origin + path.decode("latin-1"),
            request=OutboundRequest(
                request.method, path, headers, request.body, chunked=request.chunked
            ),
        )
