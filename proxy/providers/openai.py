"""OpenAI, and every service with its API: requests pass, with the upstream key put in."""

from proxy.providers.base import (
    EditableBody,
    HeaderList,
    OutboundRequest,
    PreparedCall,
    ResponseTransform,
    Target,
    Translation,
)
from proxy.providers.preparing import bearer, edited, headers_for


class OpenAIProvider:
    """Sends Host first (RFC 9110 §7.2), then the client's lines in order, then the upstream key."""

    def prepare(
        self,
        request: OutboundRequest,
        target: Target,
        upstream_key: str | None,
        body: EditableBody | None = None,
    ) -> PreparedCall:
        """Return the call: another host, the upstream key, and the edits of `target`."""
        dropped: tuple[str, ...] = ()
        if body is not None or target.model is not None:
            request, dropped = edited(request, target, body)
        if target.shared:
            headers = headers_for(target, request.headers, bearer(upstream_key))
        else:
            headers = [("Host", target.host), *request.headers]
            if upstream_key is not None:
                headers.append(("Authorization", f"Bearer {upstream_key}"))
        path = target.prefix.encode("latin-1") + request.target
        return PreparedCall(
            url=target.origin + path.decode("latin-1"),
            request=OutboundRequest(
                request.method, path, headers, request.body, chunked=request.chunked
            ),
            dropped=dropped,
        )

    def transform(
        self,
        target: Target,
        path: str,
        status: int,
        headers: HeaderList,
        translation: Translation | None = None,
    ) -> ResponseTransform | None:
        """None: it speaks the dialect."""
        return None
