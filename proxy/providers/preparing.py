"""What the providers share when they prepare a call: edits of the body, header lines, the path.

All of it starts from the client's request and leaves that as it is.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.providers.base import (
    EditableBody,
    HeaderList,
    OutboundRequest,
    PreparedCall,
    Target,
    Translation,
)
from proxy.providers.request_target import with_query_model
from proxy.usage.large import LargeValue

#: Lines, in lower case, of a client that say whose account pays. A shared provider's key decides
#: that. Sent on, they would let one client make a key look refused to all others.
_OF_THE_ACCOUNT: Final = frozenset(
    {
        "authorization",
        "api-key",
        "x-api-key",
        "ocp-apim-subscription-key",
        "openai-organization",
        "openai-project",
        "x-goog-api-key",
        "x-goog-user-project",
    }
)
_NOTHING: Final[Mapping[str, Any]] = {}


def effective(body: EditableBody, target: Target, name: str) -> Any:
    """Return the value of a parameter after the mapping's edits; None when it is absent.

    A value of many KiB is a :class:`LargeValue`.
    """
    edits = target.edits
    if name in edits.override:
        return edits.override[name]
    if name in edits.drop:
        return None
    value = body.short(name)
    if value is None and body.is_set(name):
        return LargeValue(0)
    return edits.defaults.get(name) if value is None else value


def edited(
    request: OutboundRequest,
    target: Target,
    body: EditableBody | None,
    *,
    lacking: Sequence[str] = (),
    drop: Set[str] = frozenset(),
    override: Mapping[str, Any] = _NOTHING,
    rename: Mapping[str, str] = _NOTHING,
) -> tuple[OutboundRequest, tuple[str, ...]]:
    """Return the request with the model and the edits of `target`, and which parameters it lost.

    Without a body to edit, the model in the query is replaced. `lacking` are parameters of this
    request that the provider does not take: they go, unless the mapping forces them. `drop` and
    `override` change others for it; the mapping's overrides win. A target without a model and edits
    gets the same request object.

    Raises ClientError `invalid_request`: one of `lacking` that the client sent, where `params` is
    `strict`; or a model in the query that servers may read in different ways.
    """
    if body is None:
        if target.model is None:
            return request, ()
        where = with_query_model(request.target, target.model)
        return _with(request, where, request.headers, request.body), ()
    edits = target.edits
    lacking = [name for name in lacking if name not in edits.override]
    for name in lacking if target.config.strict else ():
        if body.is_set(name):
            raise ClientError(f"The provider of this model does not take `{name}`.", param=name)
    lost = [name for name in sorted(edits.drop) if body.is_set(name)]
    text = body.edited(
        model=target.model,
        defaults=edits.defaults,
        override={**override, **edits.override} if override else edits.override,
        drop=edits.drop.union(drop, lacking),
        rename=rename,
    )
    if text is not request.body:
        length = str(len(text))
        headers = [
            (name, length if name.lower() == "content-length" else value)
            for name, value in request.headers
        ]
        request = _with(request, request.target, headers, text)
    return request, tuple(dict.fromkeys([*lost, *lacking]))


def _with(
    request: OutboundRequest, where: bytes, headers: HeaderList, body: Any
) -> OutboundRequest:
    return OutboundRequest(request.method, where, headers, body, chunked=request.chunked)


def headers_for(
    target: Target, headers: HeaderList, credential: tuple[str, str] | None, *, plain: bool = False
) -> HeaderList:
    """Return the lines for a shared provider: Host first (RFC 9110 §7.2), `credential` last.

    The client's own credentials, its organisation and its projects are left out. `plain`
    asks for a response that is not compressed, because it may have to be changed.
    """
    found = [("Host", target.host)]
    for name, value in headers:
        lower = name.lower()
        if lower in _OF_THE_ACCOUNT or (plain and lower == "accept-encoding"):
            continue
        found.append((name, value))
    if plain:
        found.append(("Accept-Encoding", "identity"))
    if credential is not None:
        found.append(credential)
    return found


def call_to(
    target: Target,
    request: OutboundRequest,
    where: bytes,
    headers: HeaderList,
    *,
    dropped: tuple[str, ...] = (),
    translation: Translation | None = None,
) -> PreparedCall:
    """Return the call that sends `request` with these header lines to `where`: path and query below
    the prefix of `target`."""
    path = target.prefix.encode("latin-1") + where
    return PreparedCall(
        url=target.origin + path.decode("latin-1"),
        request=OutboundRequest(
            request.method, path, headers, request.body, chunked=request.chunked
        ),
        dropped=dropped,
        translation=translation,
    )


def bearer(upstream_key: str | None) -> tuple[str, str] | None:
    """Return the line with an upstream key (RFC 6750 §2.1); None without a key."""
    return None if upstream_key is None else ("Authorization", f"Bearer {upstream_key}")


def below_v1(target: bytes) -> tuple[bytes, bytes]:
    """Return what follows `/v1/` in the path of a request, and the query with its question mark.

    Raises ClientError `endpoint_not_supported`: the path is not below `/v1/`.
    """
    path, question, query = target.partition(b"?")
    if not path.startswith(b"/v1/"):
        raise not_supported(path)
    return path[4:], question + query


def not_supported(path: bytes) -> ClientError:
    """The error for an endpoint that a provider lacks."""
    shown = path.decode("latin-1")[:100]
    return ClientError(
        f"The provider of this model has no endpoint {shown!r}.", code="endpoint_not_supported"
    )
