"""The routing of one worker: its catalog, which follows the stored records, and its states."""

import contextlib
import logging
import math
import random
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import gevent

from proxy.core.errors import StoreError
from proxy.gateway.model_listing import ModelListing
from proxy.gateway.routing import RoutedRequests
from proxy.providers import PROVIDERS
from proxy.providers.base import Target
from proxy.providers.config_file import ConfigFile
from proxy.providers.records import ROUTING_REVISION, RoutingRecords
from proxy.routing.attempt_loop import AttemptTimeout, RoutingOptions, Waiting
from proxy.routing.catalog import compile_catalog
from proxy.routing.dispatcher import RouteDispatcher
from proxy.routing.file_entries import merged
from proxy.routing.health import CHANNEL, WAKE_UP, HealthBoard
from proxy.routing.known_models import KnownModels
from proxy.routing.model_list import ModelList
from proxy.routing.router import Router
from proxy.routing.states import RoutingStates
from proxy.runtime.periodic import PeriodicTask
from proxy.settings.settings import Settings
from proxy.store.key_health import KeyHealth
from proxy.store.routing_tables import RoutingTables
from proxy.upstream.transport import SessionTransport
from proxy.wiring.accounts import NoChangeBus

if TYPE_CHECKING:
    from proxy.auth.change_bus import ChangeBus

_log = logging.getLogger(__name__)

#: Seconds until records that could not be read are read again.
_RETRY_SECONDS: Final = 2.0
#: Seconds for which a request of a worker that has just started waits for the first catalog.
_FIRST_WAIT: Final = 2.0


class WorkerRouting:
    """Loads the catalog at the start and whenever a record has changed; nothing runs otherwise."""

    def __init__(
        self,
        settings: Settings,
        tables: RoutingTables,
        key_health: KeyHealth,
        transport: SessionTransport,
    ) -> None:
        options = settings.routing
        self._tables = tables
        file = options.config_file or ConfigFile()
        #: What the configuration file holds.
        self.file = file.records
        self._default_provider = options.default_provider or file.default_api or None
        self._clashes: list[str] = []
        self._failed = False
        self._models: Mapping[str, Collection[str]] = {}
        self._loaded = gevent.event.Event()
        self._board = HealthBoard(
            key_health,
            interval=settings.auth.revocation_interval,
            clock=time.monotonic,
            breaker=lambda provider_id, model: self.states.breaker(provider_id, model),
            announce=lambda: self._bus.publish(WAKE_UP),
        )
        self.states = RoutingStates(
            time.monotonic, random.random, cooled=self._board.cooled, opened=self._board.opened
        )
        self._bus = _health_bus(settings, self._board)
        self.router = Router(
            Target.from_url(settings.upstream.base_url),
            random.random,
            wait=self._wait,
            private_upstreams=settings.upstream.allow_private,
        )
        self.known_models = KnownModels(PROVIDERS, transport, time.monotonic)
        self.router.sole_provider = self.known_models.sole_provider
        self.router.facts = self.known_models.facts
        self.requests = RoutedRequests(
            self.router,
            RouteDispatcher(
                PROVIDERS,
                transport,
                self.states,
                RoutingOptions(
                    max_attempts=options.max_attempts,
                    retry_deadline=options.retry_deadline,
                    fallback_on=options.fallback_on,
                    first_output_hold=options.first_output_hold,
                ),
                Waiting(
                    clock=time.monotonic,
                    wall=time.time,
                    random=random.random,
                    sleep=gevent.sleep,
                    limit=limit,
                ),
            ),
            expose_provider=options.expose_provider,
            listing=ModelListing(ModelList(self.router, self.known_models)),
        )
        self._task = PeriodicTask(
            self.load,
            lambda: _RETRY_SECONDS if self._failed else math.inf,
            failure="routing: loading the providers failed",
            log=_log,
            first_pause=lambda: 0.0,
        )

    def start(self) -> None:
        self._task.start()

    def close(self) -> None:
        self._task.kill()
        self.known_models.close()
        self._bus.close()
        self._board.close()

    def configured_models(self) -> Mapping[str, Collection[str]]:
        """Return the models of each provider that the configuration names. Does not wait."""
        return self._models

    def changed(self, ids: Collection[str] | None) -> None:
        """Load the catalog again if it may have changed. `ids`: of what changed; None: anything."""
        if ids is None or ROUTING_REVISION in ids:
            self._task.wake()

    def load(self) -> None:
        """Replace the catalog. While the records cannot be read, the old one stays."""
        try:
            records = self._tables.read()
        except StoreError as error:
            if not self._failed:
                _log.warning("routing: the providers cannot be read: %s", error)
            self._failed = True
            return
        self._failed = False
        self._replace(records)

    def _replace(self, stored: RoutingRecords) -> None:
        records, clashes = merged(self.file, stored)
        if clashes != self._clashes:
            for clash in clashes:
                _log.error("routing: %s; the file's entry is used", clash)
        self._clashes = clashes
        catalog, problems = compile_catalog(
            records.providers, records.keys, records.mappings, self._default_provider
        )
        for problem in problems:
            _log.error("routing: %s", problem)
        # The states first: a request with the new catalog needs the new keys.
        self.states.replace(catalog)
        self.known_models.replace(catalog)
        self.router.catalog = catalog
        self._models = catalog.configured_models()
        pools = self.states.pools()
        if pools:
            self._bus.start()
        self._board.set_pools(pools)
        self._loaded.set()

    def _wait(self) -> None:
        if not self._loaded.wait(_FIRST_WAIT):
            raise StoreError("The providers have not been read yet.")


def _health_bus(settings: Settings, board: HealthBoard) -> "ChangeBus | NoChangeBus":
    """Wakes the boards of other workers; without Redis they poll."""
    if not settings.redis_url:
        return NoChangeBus()
    from proxy.auth.change_bus import ChangeBus

    return ChangeBus(settings.redis_url, board, channel=CHANNEL)


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise AttemptTimeout in a block that takes longer than so many seconds."""
    with gevent.Timeout(seconds, AttemptTimeout):
        yield
