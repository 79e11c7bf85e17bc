"""A test of a provider's keys: each asks the upstream once for its models, which costs nothing."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

import gevent
import gevent.pool

from proxy.core.errors import BY_CODE, ProxyError
from proxy.logs import sanitizer
from proxy.providers.base import Provider
from proxy.providers.config import MappingConfig, provider_config
from proxy.providers.records import ProviderKeySecret, ProviderRecord
from proxy.providers.status import KeyTest
from proxy.providers.targets import target_for
from proxy.routing.models_request import ask_for_models
from proxy.upstream.transport import Transport

#: Seconds that one key may take.
_TIMEOUT: Final = 10.0
#: Keys that ask at the same time.
_PARALLEL: Final = 4


class KeyTester:
    """Asks upstreams through the worker's transport."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
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
        found = ask_for_models(known, self._transport, target, upstream_key, max_pages=1)
        return found.status, None if found.models is None else len(found.models), found.error
