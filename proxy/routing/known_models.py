"""The models of each upstream as a worker knows them: declared, or asked for in the background.

Each provider that lists its models is asked when its record or its keys change, then every hour. A
project's own upstream is asked when the project first lists its models. An upstream that fails is
asked again after a minute, and keeps the list that it gave last.
"""

import contextlib
import hashlib
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import gevent
import gevent.event
import gevent.pool
from cachetools import LRUCache

from proxy.core.errors import BY_CODE, ProxyError
from proxy.logs import sanitizer
from proxy.policy.globs import Globs
from proxy.providers.anthropic.models import facts_by_name, model_facts
from proxy.providers.base import NO_FACTS, ModelFacts, Provider, Target
from proxy.routing.access import RoutingAccess
from proxy.routing.catalog import Catalog, CatalogProvider
from proxy.routing.models_request import ask_for_models
from proxy.routing.states import KEYLESS
from proxy.runtime.periodic import PeriodicTask
from proxy.runtime.yielding import turn_if_due
from proxy.upstream.transport import Transport

#: Seconds until an upstream that has given its list is asked again, and one that has not.
INTERVAL: Final = 3600.0
RETRY: Final = 60.0
#: Seconds for which a request waits for upstreams that have never been asked, all together.
MAX_WAIT: Final = 2.0
#: Seconds that one upstream may take.
_TIMEOUT: Final = 10.0
#: Upstreams that are asked at the same time.
_PARALLEL: Final = 16
#: Keys of one provider with which it is asked, if it refuses the ones before.
_MAX_KEYS: Final = 3
#: Models of one upstream, and characters of a name. What is more is left out.
_MAX_MODELS: Final = 5000
_MAX_NAME_CHARS: Final = 256
#: Own upstreams of projects whose lists are kept.
_MAX_OWN: Final = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model by the upstream's own name."""

    name: str
    #: Unix seconds. 0: not known.
    created: int = 0
    #: As the upstream says. Empty: it says nothing.
    owned_by: str = ""
    facts: ModelFacts = NO_FACTS


@dataclass(slots=True, eq=False)
class _List:
    """What is known of one upstream, and how it is asked."""

    target: Target
    #: Tried in order.
    keys: tuple[str | None, ...]
    #: Monotonic seconds. Infinite while it is asked.
    due: float
    models: tuple[KnownModel, ...] = ()
    #: What is known of some of them, by all their names.
    facts: Mapping[str, ModelFacts] = field(default_factory=dict)
    #: Why it could not be asked last time, without secrets.
    error: str | None = None
    #: Set when it has been asked once, whatever came of it.
    settled: gevent.event.Event = field(default_factory=gevent.event.Event)


class KnownModels:
    """The lists of a worker. Nothing runs while no provider is to be asked."""

    def __init__(
        self,
        dialects: Mapping[str, Provider],
        transport: Transport,
        clock: Callable[[], float],
        *,
        changed: Callable[[], None] = lambda: None,
        timeout: float = _TIMEOUT,
    ) -> None:
        """`dialects`: provider type → how its requests are made. `changed` is called when a list
        is another; it must not wait. `timeout`: seconds that one upstream may take.
        """
        self._dialects = dialects
        self._transport = transport
        self._clock = clock
        self.changed = changed
        self._timeout = timeout
        self._providers: dict[str, tuple[CatalogProvider, _List]] = {}
        self._own: LRUCache[bytes, _List] = LRUCache(_MAX_OWN)
        self._pool = gevent.pool.Pool(_PARALLEL)
        self._task = PeriodicTask(
            self._ask_due,
            self._pause,
            failure="routing: asking for models failed",
            log=_log,
            first_pause=lambda: 0.0,
        )

    def replace(self, catalog: Catalog) -> None:
        """Take over a new catalog: new and changed providers are asked at once. Does not wait."""
        before, self._providers = self._providers, {}
        for provider in catalog.providers.values():
            if not is_asked(provider):
                continue
            identifier = provider.record.id
            known = before.get(identifier)
            if known is not None and _asked_alike(known[0], provider):
                self._providers[identifier] = provider, known[1]
                continue
            keys: tuple[str | None, ...] = (None,)
            if provider.keys:
                # A weight of 0 makes a key the reserve.
                ordered = sorted(provider.keys, key=lambda key: key.record.weight == 0)
                keys = tuple(key.value for key in ordered[:_MAX_KEYS])
            made = _List(provider.target(None), keys, self._clock())
            if known is not None and _place(known[0]) == _place(provider):
                made.models, made.facts = known[1].models, known[1].facts
                if known[1].settled.is_set():
                    made.settled.set()
            self._providers[identifier] = provider, made
        if not self._providers:
            self._task.kill()
        elif self._task.started:
            self._task.wake()
        else:
            self._task.start()
        self.changed()

    def close(self) -> None:
        """Ask no more. Idempotent."""
        self._task.kill()
        self._pool.kill(block=False)

    def of(self, provider: CatalogProvider) -> tuple[KnownModel, ...]:
        """Return the models of a provider that one of its keys serves, as far as they are known."""
        found = self._listed(provider)
        served = _served(provider)
        if served is None:
            return found
        return tuple(model for model in found if served.match(model.name))

    def _listed(self, provider: CatalogProvider) -> tuple[KnownModel, ...]:
        if not _is_listed(provider):
            return ()
        if provider.config.models:
            return tuple(KnownModel(name) for name in provider.config.models if "*" not in name)
        known = self._providers.get(provider.record.id)
        return () if known is None else known[1].models

    def _has(self, provider: CatalogProvider, name: str) -> bool:
        """Whether :meth:`of` has a model of this name."""
        # The name first: clients choose it, and to match each of 5000 models takes milliseconds.
        if not any(model.name == name for model in self._listed(provider)):
            return False
        served = _served(provider)
        return served is None or served.match(name)

    def of_own(self, target: Target, upstream_key: str) -> tuple[KnownModel, ...]:
        """Return the models of a project's own upstream, as far as they are known."""
        return self._own_list(target, upstream_key).models

    def facts(self, provider: CatalogProvider, model: str) -> ModelFacts:
        """Return what the provider says of a model, as far as it was asked."""
        known = self._providers.get(provider.record.id)
        return NO_FACTS if known is None else known[1].facts.get(model, NO_FACTS)

    def sole_provider(
        self, catalog: Catalog, access: RoutingAccess, name: str
    ) -> CatalogProvider | None:
        """Return the only provider that lists a model of this name and that the project may use."""
        having = [
            provider
            for provider in catalog.providers.values()
            if access.allows(provider.name) and self._has(provider, name)
        ]
        return having[0] if len(having) == 1 else None

    def error(self, provider_id: str) -> str | None:
        """Return why a provider's list could not be renewed, in one line; None: it could."""
        known = self._providers.get(provider_id)
        return None if known is None else known[1].error

    def wait(
        self,
        providers: Iterable[CatalogProvider],
        own: tuple[Target, str] | None = None,
        seconds: float = MAX_WAIT,
    ) -> None:
        """Wait until each of them was asked once, but not longer than `seconds` for all.

        `own`: the upstream of a project's own key, with that key.
        """
        lists = [
            self._providers[provider.record.id][1]
            for provider in providers
            if provider.record.id in self._providers
        ]
        if own is not None:
            lists.append(self._own_list(*own))
        pending = [each.settled for each in lists if not each.settled.is_set()]
        if pending:
            gevent.wait(pending, timeout=seconds)

    def _own_list(self, target: Target, upstream_key: str) -> _List:
        place = f"{target.origin}{target.prefix}\0{upstream_key}"
        digest = hashlib.sha256(place.encode()).digest()
        known = self._own.get(digest)
        if known is None:
            known = self._own[digest] = _List(target, (upstream_key,), self._clock())
        if known.due <= self._clock():
            self._spawn(known)
        return known

    def _ask_due(self) -> None:
        now = self._clock()
        for _, each in list(self._providers.values()):
            if each.due <= now:
                self._spawn(each)

    def _pause(self) -> float | None:
        if not self._providers:
            return None
        due = min(each.due for _, each in self._providers.values())
        return math.inf if due == math.inf else max(0.0, due - self._clock())

    def _spawn(self, each: _List) -> None:
        each.due = math.inf
        # Where all places are taken, it is asked later. A wait here would hold up a request.
        if self._pool.full():
            each.due = self._clock() + 1.0
            return
        self._pool.spawn(self._renew, each)

    def _renew(self, each: _List) -> None:
        models: Collection[KnownModel] | None = None
        error: str | None = "the models could not be read"
        try:
            models, error = self._asked(each)
        except Exception:  # noqa: BLE001  (a defect: the list stays as it is)
            _log.exception("routing: the models of %s could not be read", each.target.provider)
        finally:
            each.error = error
            each.due = self._clock() + (RETRY if models is None else INTERVAL)
            if models is not None and each.models != models:
                each.models = tuple(models)
                each.facts = facts_by_name((model.name, model.facts) for model in models)
                self.changed()
            each.settled.set()
            self._task.wake()

    def _asked(self, each: _List) -> tuple[tuple[KnownModel, ...] | None, str | None]:
        """Return the models, or why there are none."""
        dialect = self._dialects.get(each.target.provider_type)
        if dialect is None:
            return None, f"this version cannot ask the type {each.target.provider_type}"
        error = None
        try:
            with gevent.Timeout(self._timeout):
                for key in each.keys:
                    found = ask_for_models(dialect, self._transport, each.target, key)
                    if found.models is not None:
                        says = each.target.provider_type == "anthropic"
                        return models_in(found.models, model_facts if says else _no_facts), None
                    error = found.error
                    if found.status not in (401, 402, 403, 429):
                        break
        except gevent.Timeout:
            error = f"no response within {self._timeout:g} s"
        except ProxyError as failure:
            text = str(failure) or BY_CODE[failure.code]
            for key in each.keys:
                text = text.replace(key, "[secret]") if key else text
            error = sanitizer.clean(text)
        return None, error


def _no_facts(item: Mapping[str, Any]) -> ModelFacts:
    return NO_FACTS


def models_in(
    items: Iterable[Any], facts: Callable[[Mapping[str, Any]], ModelFacts] = _no_facts
) -> tuple[KnownModel, ...]:
    """Return the models of an upstream's list, each once. `facts` reads what an item says.

    Left out is what is no name of a model: patterns such as `openai/*`, and what cannot be printed.
    """
    found: dict[str, KnownModel] = {}
    for item in items:
        turn_if_due()
        name = item.get("id") if isinstance(item, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS:
            continue
        if not name.isprintable() or "*" in name or name in found:
            continue
        owner = item.get("owned_by")
        found[name] = KnownModel(
            name,
            _created(item),
            owner[:_MAX_NAME_CHARS] if isinstance(owner, str) else "",
            facts(item),
        )
        if len(found) == _MAX_MODELS:
            break
    return tuple(found.values())


def _created(item: Mapping[str, Any]) -> int:
    """Return the Unix seconds of OpenAI's `created`, or Anthropic's `created_at`. 0: not known."""
    created, moment = item.get("created"), item.get("created_at")
    if created is None and isinstance(moment, str):
        with contextlib.suppress(ValueError, OverflowError):
            read = datetime.fromisoformat(moment)
            created = int((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp())
    return created if type(created) is int and 0 <= created < 2**53 else 0


def is_asked(provider: CatalogProvider) -> bool:
    """Return whether the provider is asked for its models.

    One of Anthropic's is asked though its models are not listed: it says what they take.
    """
    config = provider.config
    wanted = config.list_models or provider.record.provider_type == "anthropic"
    return wanted and not config.models and _is_usable(provider)


def _is_listed(provider: CatalogProvider) -> bool:
    return provider.config.list_models and _is_usable(provider)


def _is_usable(provider: CatalogProvider) -> bool:
    """Whether it has the key that it needs."""
    return bool(provider.keys) or provider.record.provider_type in KEYLESS


def _served(provider: CatalogProvider) -> Globs | None:
    """Return which models the keys of a provider serve; None: all."""
    if not provider.keys or any(not key.record.models for key in provider.keys):
        return None
    return Globs(name for key in provider.keys for name in key.record.models)


def _place(provider: CatalogProvider) -> tuple[str, str]:
    return provider.record.provider_type, provider.record.base_url


def _asked_alike(one: CatalogProvider, other: CatalogProvider) -> bool:
    """Whether both records are asked at the same place, with the same keys and configuration."""
    return (
        _place(one) == _place(other)
        and one.name == other.name
        and one.record.config == other.record.config
        and [(key.record.id, key.value, key.record.weight) for key in one.keys]
        == [(key.record.id, key.value, key.record.weight) for key in other.keys]
    )
