"""A request to an upstream for its models, which costs nothing: `GET /v1/models`.

Anthropic's list comes in pages; those of others are whole.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy import __version__
from proxy.logs import sanitizer
from proxy.providers.anthropic import models as anthropic_models
from proxy.providers.base import OutboundRequest, Provider, Target
from proxy.upstream.timing import Timing
from proxy.upstream.transport import Transport, UpstreamResponse

_PATH: Final = "/v1/models"
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
#: Pages of one list. A server may give fewer models a page than it is asked for.
MAX_PAGES: Final = 50
_HEADERS: Final = (
    ("Accept", "application/json"),
    ("Accept-Encoding", "identity"),
    ("User-Agent", f"openai-proxy/{__version__}"),
)
#: What an upstream's error may say of itself. Its message is not shown: it may repeat the key.
_ERROR_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelsResponse:
    """What an upstream says of its models."""

    status: int
    #: The items of the list as the upstream wrote them. None: see :attr:`error`.
    models: list[Any] | None = None
    #: Why there is no list, without secrets.
    error: str | None = None


def ask_for_models(
    dialect: Provider,
    transport: Transport,
    target: Target,
    upstream_key: str | None,
    *,
    max_pages: int = MAX_PAGES,
) -> ModelsResponse:
    """Ask for the list, and for its further pages. Waits; the caller bounds the time.

    A page that fails fails the list: the models behind it would seem to be gone. Raises ProxyError
    when there is no response.
    """
    paged = target.provider_type == "anthropic"
    path: str | None = anthropic_models.FIRST_PAGE if paged else _PATH
    status, models = 0, []
    asked: set[str] = set()
    while path is not None and path not in asked and len(asked) < max_pages:
        asked.add(path)
        status, document = _page(dialect, transport, target, upstream_key, path)
        if not 200 <= status < 300:
            return ModelsResponse(status, error=_refusal(status, document))
        listed = document.get("data") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            return ModelsResponse(status, error="the response is not a list of models")
        models += listed
        path = anthropic_models.next_page(document) if paged and listed else None
    return ModelsResponse(status, models)


def _page(
    dialect: Provider, transport: Transport, target: Target, upstream_key: str | None, path: str
) -> tuple[int, Any]:
    """Return the status and the decoded body of one response; None: the body is no JSON."""
    request = OutboundRequest("GET", path.encode(), list(_HEADERS), None)
    call = dialect.prepare(request, target, upstream_key)
    response = transport.handle(call, Timing())
    try:
        body = _read(response)
    finally:
        response.close()
    changed = dialect.transform(target, _PATH, response.status, response.headers)
    if changed is not None:
        body = changed.body.feed(body) + changed.body.end()
    return response.status, _decoded(body)


def _read(response: UpstreamResponse) -> bytes:
    body = bytearray()
    while len(body) <= _MAX_BODY_BYTES and (chunk := response.read()):
        body += chunk
    return bytes(body)


def _decoded(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _refusal(status: int, document: Any) -> str:
    """Return ``HTTP 401 (invalid_api_key)``: the status and the upstream's own word for it."""
    error = document.get("error") if isinstance(document, dict) else None
    facts = error if isinstance(error, dict) else {}
    for name in ("code", "status", "type"):
        word = facts.get(name)
        if isinstance(word, str) and _ERROR_WORD.fullmatch(word) and sanitizer.clean(word) == word:
            return f"HTTP {status} ({word})"
    return f"HTTP {status}"
