"""A test of a provider's keys: each asks the upstream once for its models, which costs nothing."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gevent
import gevent.pool
import orjson

from proxy import __version__
from proxy.core.errors import BY_CODE, ProxyError
from proxy.logs import sanitizer
from proxy.providers.base import OutboundRequest, Provider
from proxy.providers.config import MappingConfig, provider_config
from proxy.providers.health import KeyTest
from proxy.providers.records import ProviderKeySecret, ProviderRecord
from proxy.providers.targets import target_for
from proxy.upstream.timing import Timing
from proxy.upstream.transport import Transport, UpstreamResponse

_PATH: Final = "/v1/models"
#: Seconds that one key may take.
_TIMEOUT: Final = 10.0
#: Keys that ask at the same time.
_PARALLEL: Final = 4
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_HEADERS: Final = (
    ("Accept", "application/json"),
    ("Accept-Encoding", "identity"),
    ("User-Agent", f"openai-proxy/{__version__}"),
)
#: What an upstream's error may say of itself. Its message is not shown: it may repeat the key.
_ERROR_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)


class KeyTester:
    """Asks upstreams through the worker's transport."""

    def __init__(
        self,
        providers: Mapping[str, Callable[[], Provider]],
        transport: Transport,
        *,
        timeout: float = _TIMEOUT,
    ) -> None:
        """``providers``: type → how its requests are made. ``timeout``: seconds for one key."""
        self._providers = providers
        self._transport = transport
        self._timeout = timeout

    def test(self, provider: ProviderRecord, keys: Sequence[ProviderKeySecret]) -> list[KeyTest]:
        """Ask once with each key, in the order of `keys`. Waits; raises nothing."""
        pool = gevent.pool.Pool(_PARALLEL)
        return list(pool.imap(lambda key: self._ask(provider, key), keys))

    def _ask(self, provider: ProviderRecord, key: ProviderKeySecret) -> KeyTest:
        started = time.perf_counter()
        status = models = None
        error: str | None = None
        try:
            with gevent.Timeout(self._timeout):
                status, models, error = self._models(provider, key.value)
        except gevent.Timeout:
            error = f"no response within {self._timeout:g} s"
        except ProxyError as failure:
            error = sanitizer.clean(
                (str(failure) or BY_CODE[failure.code]).replace(key.value, "[secret]")
            )
        return KeyTest(
            key_id=key.record.id,
            name=key.record.name,
            ok=error is None,
            status=status,
            duration_ms=round((time.perf_counter() - started) * 1e3, 1),
            models_count=models,
            error=error,
        )

    def _models(
        self, provider: ProviderRecord, upstream_key: str
    ) -> tuple[int, int | None, str | None]:
        """Return the status, how many models are listed, and what is wrong. Raises ProxyError."""
        known = self._providers.get(provider.provider_type)
        if known is None:
            raise ProxyError(
                f"This version cannot ask a provider of the type {provider.provider_type}."
            )
        config = provider_config(provider.config, provider.provider_type)
        target = target_for(provider, None, MappingConfig(), config)
        request = OutboundRequest("GET", _PATH.encode(), list(_HEADERS), None)
        dialect = known()
        call = dialect.prepare(request, target, upstream_key)
        response = self._transport.handle(call, Timing())
        try:
            body = _read(response)
        finally:
            response.close()
        changed = dialect.transform(target, _PATH, response.status, response.headers)
        if changed is not None:
            body = changed.body.feed(body) + changed.body.end()
        document = _decoded(body)
        if not 200 <= response.status < 300:
            return response.status, None, _refusal(response.status, document)
        listed = document.get("data") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            return response.status, None, "the response is not a list of models"
        return response.status, len(listed), None


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
