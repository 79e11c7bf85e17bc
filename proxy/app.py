"""The composition root: the one place that knows concrete classes.

Made in each worker, after the fork; nothing connects, spawns or listens before :meth:`start`.
"""

import time
from collections.abc import Collection, Iterable
from typing import Any

from proxy import assembly, rooms
from proxy.auth.authenticator import Authenticator
from proxy.auth.budgets import Budgets
from proxy.auth.counts import RequestCounts
from proxy.auth.leases import PermitLeases
from proxy.auth.passthrough import PassThrough
from proxy.auth.revocation import Revocation
from proxy.cipher import Cipher
from proxy.errors import ClientError, ProxyError
from proxy.events.drain import Drain
from proxy.events.folders import LOCAL
from proxy.events.journal import Journal
from proxy.events.queue import EventQueue
from proxy.events.sinks import from_event_log, shipped
from proxy.observation import Observation, facts
from proxy.providers import PROVIDERS
from proxy.providers.base import Target
from proxy.relay.relay import Relay
from proxy.relay.watch import Drained, LiveRequests
from proxy.settings import Settings
from proxy.store.changes import Changes
from proxy.store.counters import Counters
from proxy.store.grants import Grants
from proxy.store.health import DatabaseHealth
from proxy.store.migrate import check_schema
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens
from proxy.web import Room, create_flask_app, doors, metrics, minting, status
from proxy.web.admission import Admission
from proxy.web.bounds import Bounds
from proxy.web.cors import Cors
from proxy.web.guards import MetricsGuard
from proxy.web.inbound import request_id
from proxy.web.minting import MintingEndpoint
from proxy.web.relay import RelayEndpoint, StartResponse
from proxy.web.replies import Reply, error_reply
from proxy.web.trail import Trail


class Application:
    """The WSGI callable, and the life of what works behind it in one worker."""

    #: Targets that go to the relay, which takes the request's facts from ``wsgi.input``.
    relayed = "/v1/"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.client_timeout = settings.client_timeout
        self.profile_dir = settings.profile_dir
        self._database = assembly.open_database(settings)
        cipher = Cipher(settings.encryption_key, settings.encryption_keys_previous)
        project_store = Projects(self._database, cipher)
        token_store = Tokens(self._database)
        counters = Counters(self._database)
        self._counts = RequestCounts(counters)
        self._budgets = Budgets(counters, self._counts.unwritten)
        self._health = DatabaseHealth(lambda: check_schema(self._database))
        self._queue = EventQueue(settings.event_queue_size)
        self._recorder = assembly.audit_recorder(self._database, self._queue)
        trail = Trail(self._recorder, settings.trusted_proxies)
        self._drain: Drain | None = None
        self._live = LiveRequests()
        adapter = assembly.upstream_adapter(settings)
        self._transport = assembly.session_transport(settings, adapter)
        self._leases = PermitLeases(counters, self._counts)
        self._authenticator = authenticator = Authenticator(
            Grants(self._database, cipher),
            self._leases,
            self._counts,
            self._budgets,
            cache_size=settings.auth_cache_size,
            cache_ttl=settings.auth_cache_ttl,
            stale_grace=settings.auth_stale_grace,
        )
        self._revocation = Revocation(
            Changes(self._database), self._forget, interval=settings.revocation_interval
        )
        #: Set where clients bring keys of their own: then nothing here uses the database.
        without = settings.auth_mode == "passthrough"
        self._pass_through = PassThrough(settings.data_dir.absolute()) if without else None
        admission = Admission(self._pass_through or authenticator)
        cors = Cors(settings.cors_allowed_origins)
        self._endpoint = RelayEndpoint(
            admission,
            Relay(
                PROVIDERS["openai"](),
                Target.from_url(settings.upstream_base_url),
                self._transport,
            ),
            self._queue,
            self._live,
            cors,
            Bounds(
                concurrent=settings.max_concurrent_requests,
                request_bytes=settings.max_request_bytes,
                json_bytes=settings.max_json_bytes,
                trusted_proxies=settings.trusted_proxies,
                sse_keepalive=settings.sse_keepalive,
            ),
        )
        self._housekeeper = assembly.housekeeper(settings, self._database)
        self._observation = Observation(
            settings,
            "openai",
            [self._recorder.refusals.events],
            live=self._live,
            cache=authenticator.cache,
            pools=adapter.pools.values,
            queue=self._queue,
            drain=lambda: self._drain,
            revocation=None if self._pass_through else self._revocation,
            database_up=None if self._pass_through else lambda: self._health.state == "ok",
            permits=lambda: self._leases.outstanding,
            chores=self._housekeeper.rows,
        )
        self._minting = MintingEndpoint(
            admission,
            token_store,
            cors,
            trail,
            trusted_proxies=settings.trusted_proxies,
            observe=self._observation.page,
        )
        self.flask = create_flask_app(
            [
                Room(doors.create_blueprint(self._endpoint), "/v1", None),
                Room(doors.create_minting_blueprint(self._minting), minting.PATH, None),
                *rooms.management(settings, self._database, project_store, token_store, trail),
                Room(status.create_blueprint(self), None, None),
                Room(
                    metrics.create_blueprint(self._observation.read, facts(settings)),
                    None,
                    MetricsGuard(settings.metrics_token),
                ),
            ],
            self._observation.page,
        )
        self.stopping = False

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        target: str = environ.get("RAW_URI", "/")
        if target.startswith(self.relayed):
            ours = target.startswith(minting.PATH) and minting.takes(target)
            return (self._minting if ours else self._endpoint)(environ, start_response)
        if not target.startswith("/"):
            # Absolute-form and authority-form: we are no forward proxy, and which of the two host
            # names would be meant is nothing to guess about.
            refusal = ClientError("The request target must begin with `/`.")
            name = request_id(environ.get("HTTP_X_REQUEST_ID"))
            reply = error_reply(refusal, [("X-Proxy-Request-ID", name)])
            start_response(reply.status, reply.headers)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.body]
        return self.flask.wsgi_app(environ, start_response)  # type: ignore[arg-type]

    # What `/ready` tells.

    @property
    def database_seen(self) -> bool:
        return self._pass_through is not None or self._health.ready

    @property
    def revocation_lag(self) -> float | None:
        return self._revocation.lag

    @property
    def database_state(self) -> str:
        return "not used" if self._pass_through else self._health.state

    # The worker's side.

    def error_answer(self, error: ProxyError, status_line: str | None = None) -> Reply:
        """An answer in the error shape, for what never reached a route."""
        reply = error_reply(error)
        return reply if status_line is None else reply._replace(status=status_line)

    def start(self) -> None:
        """Called once in the worker, before it accepts."""
        settings = self._settings
        sinks = from_event_log(
            settings.event_log,
            max_bytes=settings.event_log_max_bytes,
            backups=settings.event_log_backups,
        )
        # Each is the name of a sink for which the spool keeps what it has not got yet.
        readers = frozenset(shipped(settings)) | ({LOCAL} if sinks else set())
        self._drain = Drain(
            self._queue,
            sinks,
            backlog=settings.event_queue_size,
            observe=self._observation.events,
            journal=Journal(assembly.spool_settings(settings, readers)),
        )
        self._observation.start()
        if self._pass_through is not None:
            self._pass_through.start()
        else:
            self._start_with_database()

    def _start_with_database(self) -> None:
        self._recorder.start()
        self._counts.start(self._budgets.refresh)
        self._leases.start()
        self._revocation.start()
        self._health.start()
        self._housekeeper.start()

    def _forget(self, ids: Collection[str] | None) -> None:
        self._authenticator.forget(ids)
        # Their limits may have changed; the store's own must be what counts.
        self._leases.give_back(ids)

    def begin_stop(self) -> None:
        """``/ready`` answers 503 from now on; everything else goes on."""
        self.stopping = True

    def cut(self) -> None:
        """End the answers that are still running, broken; refuse what comes now."""
        self._endpoint.draining = True
        self._live.interrupt_all(Drained)

    def close(self, deadline: float) -> None:
        """Flush events and counts within about ``deadline`` seconds; idempotent."""
        drain, self._drain = self._drain, None
        if drain is None:
            return
        started = time.monotonic()
        self._revocation.close()
        self._health.close()
        self._housekeeper.close(min(0.5, deadline / 10))
        self._leases.close(deadline / 3)
        self._counts.close(deadline / 3)  # milliseconds, unless the database hangs
        self._recorder.close(deadline / 10)
        drain.close(deadline - (time.monotonic() - started))
        self._observation.close()
        self._transport.close()
        self._database.close()


def create_app(settings: Settings) -> Application:
    return Application(settings)
