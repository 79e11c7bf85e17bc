"""OpenAI, and every service with its API: requests pass, with the upstream key put in."""

from proxy.providers.base import (
    EditableBody,
    HeaderList,
    OutboundRequest,
    PreparedCall,
    ResponseTransform,
    Target,
)


class OpenAIProvider:
    """Sends Host first (RFC 9110 §7.2), then the client's lines in order, then the upstream key."""

    def prepare(
        self,
        request: OutboundRequest,
        target: Target,
        upstream_key: str | None,
        body: EditableBody | None = None,
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

    def transform(
        self, target: Target, path: str, status: int, headers: HeaderList
    ) -> ResponseTransform | None:
        """None: it speaks the dialect."""
        return None
