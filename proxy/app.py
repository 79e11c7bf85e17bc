"""The composition root: the one place that knows concrete classes.

Each worker makes an `Application` after the fork. Nothing connects, spawns or listens before
`Application.start`.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import requests

from proxy.auth.passthrough import PassThrough
from proxy.core.errors import ClientError, ProxyError
from proxy.core.usage_event import UsageEvent
from proxy.events.pump import EventPump
from proxy.gateway.admission import Admission
from proxy.gateway.cors import Cors
from proxy.gateway.endpoint import RelayEndpoint, RelayOptions, StartResponse
from proxy.gateway.held_bodies import HeldBodies
from proxy.gateway.inflight import InFlightRequests
from proxy.gateway.request import request_id
from proxy.gateway.responses import Reply, error_reply
from proxy.logs import sanitizer
from proxy.providers import PROVIDERS
from proxy.providers.base import PUBLIC_ONLY, Target
from proxy.quota.stored_reads import Reads
from proxy.routing.dispatcher import Dispatcher
from proxy.routing.key_test import KeyTester
from proxy.settings.settings import Settings, UpstreamSettings
from proxy.store.audit import AuditLog
from proxy.store.usage import UsageLedger
from proxy.upstream.adapter import UpstreamAdapter
from proxy.upstream.transport import SessionTransport
from proxy.web import Mount, blueprints, create_flask_app, metrics, status
from proxy.web.api import (
    audit,
    cache,
    keys,
    mappings,
    minting,
    projects,
    providers,
    routing_health,
    tokens,
    usage,
)
from proxy.web.api.minting import MintingEndpoint
from proxy.web.audit_trail import AuditTrail
from proxy.web.guards import LoginLimiter, ManagementGuard, MetricsGuard
from proxy.wiring.accounts import AccountServices
from proxy.wiring.caching import WorkerCaching
from proxy.wiring.events import event_pump, event_queue
from proxy.wiring.ratelimit import RateLimiting
from proxy.wiring.routing import WorkerRouting
from proxy.wiring.routing_management import RoutingManagement
from proxy.wiring.telemetry import Telemetry, stats_facts

_NOTHING_TO_MANAGE: Final = (
    "This node relays its clients' own keys (AUTH_MODE=passthrough): it keeps no projects, access"
    " tokens or usage, and uses no database."
)


def management(
    settings: Settings,
    accounts: AccountServices,
    routing: RoutingManagement | None,
    caching: WorkerCaching,
    trail: AuditTrail,
    logins: LoginLimiter,
) -> list[Mount]:
    """Everything below `/manage`, behind one guard. What several gateways call alike is also below
    `/admin`.

    `routing`: None where clients bring keys of their own, and nothing is kept.
    `logins` and `trail` record refused logins; `trail` also records every call that changes data.
    """
    guard = ManagementGuard(
        settings.auth.management_token, logins, settings.server.trusted_proxies, trail.refused_login
    )
    if routing is None:
        return [
            Mount(
                blueprints.create_disabled_blueprint("absent", _NOTHING_TO_MANAGE), "/manage", guard
            )
        ]
    stores = accounts.projects, accounts.tokens
    ledger = UsageLedger(accounts.database)
    announce = accounts.announce
    purging = cache.Purging(accounts.projects, caching.purges, caching.opened_cache, announce)
    return [
        Mount(
            projects.create_blueprint(
                *stores,
                trail,
                announce=announce,
                provider_names=lambda: set(routing.catalog.provider_names().values()),
                allow_private=settings.upstream.allow_private,
                caches=settings.cache.ttl > 0,
            ),
            "/manage/projects",
            guard,
        ),
        Mount(tokens.create_blueprint(*stores, trail, announce=announce), "/manage/tokens", guard),
        Mount(audit.create_blueprint(AuditLog(accounts.database)), "/manage/audit", guard),
        Mount(usage.create_blueprint(ledger, settings.prices_file), "/manage/usage", guard),
        Mount(cache.create_blueprint(purging, trail, settings.cache.ttl), "/manage/cache", guard),
        Mount(cache.create_flush_blueprint(purging, trail), None, guard),
        *_routing_mounts("/manage", "", routing, trail, announce, guard),
        *_routing_mounts("/admin", "admin_", routing, trail, announce, guard),
    ]


def _routing_mounts(
    prefix: str,
    label: str,
    routing: RoutingManagement,
    trail: AuditTrail,
    announce: Callable[[str], None],
    guard: ManagementGuard,
) -> list[Mount]:
    """Providers, keys and mappings below `prefix`; the blueprints' names begin with `label`."""
    catalog, health, breakers = routing.catalog, routing.key_health, routing.breakers
    made = {
        "providers": providers.create_blueprint(
            catalog, trail, breakers, routing.test, announce=announce, name=f"{label}providers"
        ),
        "keys": keys.create_blueprint(
            catalog, trail, health, announce=announce, name=f"{label}provider_keys"
        ),
        "mappings": mappings.create_blueprint(
            catalog, trail, announce=announce, name=f"{label}mappings"
        ),
        "health": routing_health.create_blueprint(
            catalog,
            health,
            breakers,
            models_error=routing.models_error,
            database=routing.database_state,
            redis=routing.redis_state,
            name=f"{label}routing_health",
        ),
    }
    return [Mount(blueprint, f"{prefix}/{name}", guard) for name, blueprint in made.items()]


def upstream_adapter(upstream: UpstreamSettings) -> UpstreamAdapter:
    return UpstreamAdapter(
        pool_size=upstream.pool_size,
        connect_timeout=upstream.connect_timeout,
        proxy_url=upstream.proxy_url,
    )


def session_transport(upstream: UpstreamSettings, adapter: UpstreamAdapter) -> SessionTransport:
    session = requests.Session()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    # The session compares longer prefixes first. This one is as short as the others and comes after
    # them, so the usual request does not pay for it.
    session.mount(PUBLIC_ONLY, adapter)
    return SessionTransport(
        session,
        connect_timeout=upstream.connect_timeout,
        read_timeout=upstream.read_timeout,
    )


def relay_options(settings: Settings) -> RelayOptions:
    gateway = settings.gateway
    return RelayOptions(
        request_bytes=gateway.max_request_bytes,
        json_bytes=gateway.max_json_bytes,
        # A single body may exceed this maximum, within its own limits.
        held=HeldBodies(gateway.held_bodies_max_bytes),
        trusted_proxies=settings.server.trusted_proxies,
        sse_keepalive=gateway.sse_keepalive,
    )


class Application:
    """The WSGI callable, and the lifecycle of the parts behind it in one worker."""

    #: Targets with this prefix go to the relay, which takes header lines from `wsgi.input`.
    relayed = "/v1/"

    def __init__(self, settings: Settings) -> None:
        sanitizer.set_secrets(settings.known_secrets())
        self._settings = settings
        server = settings.server
        self.client_timeout = server.client_timeout
        self.keepalive_timeout = server.keepalive_timeout
        self.min_body_rate = server.min_body_rate
        # Behind trusted proxies, all connections come from those proxies.
        self.connection_share = 1.0 if server.trusted_proxies else server.fair_share
        self.profile_dir = server.profile_dir
        self._queue = event_queue(settings)
        self._pump: EventPump | None = None
        self._in_flight = InFlightRequests(server.max_concurrent_requests, server.fair_share)
        self._rate_limits = RateLimiting(settings)
        self._accounts = accounts = AccountServices(settings, self._in_flight, self._queue)
        # Set where clients bring upstream keys of their own: then nothing uses the database, and
        # nothing routes.
        passthrough = settings.auth.passthrough
        self._passthrough = (
            PassThrough(settings.data_dir.absolute(), caches=settings.cache.passthrough)
            if passthrough
            else None
        )
        admission = Admission(
            self._passthrough or accounts.authenticator,
            self._rate_limits.throttle,
            self._queue.gate,
        )
        cors = Cors(settings.gateway.cors_allowed_origins)
        adapter = upstream_adapter(settings.upstream)
        self._transport = session_transport(settings.upstream, adapter)
        self._routing = routing = None if passthrough else self._worker_routing()
        self._caching = WorkerCaching(settings, accounts)
        self._endpoint = RelayEndpoint(
            admission,
            Dispatcher(
                PROVIDERS["openai"],
                Target.from_url(settings.upstream.base_url),
                self._transport,
            ),
            self._queue,
            self._in_flight,
            cors,
            relay_options(settings),
            None if routing is None else routing.requests,
            self._caching.requests,
        )
        self._stored_reads = Reads(
            accounts.counted_ids, self._count_read, each=not settings.retention.counted_ids_days
        )
        self._telemetry = Telemetry(
            settings,
            dict if routing is None else routing.configured_models,
            [accounts.recorder.denials.events, self._stored_reads.events],
            in_flight=self._in_flight,
            token_cache=accounts.authenticator.cache,
            pools=adapter.pools.values,
            queue=self._queue,
            pump=lambda: self._pump,
            change_poller=None if passthrough else accounts.change_poller,
            database_up=None if passthrough else lambda: accounts.health.state == "ok",
            permits=lambda: accounts.leases.outstanding,
            audit_dropped=lambda: accounts.recorder.dropped,
            tasks=accounts.maintenance.rows,
            limits=self._rate_limits,
            routing=None if routing is None else routing.states,
            response_cache=self._caching.counts,
        )
        pages = None if routing is None else self._routing_management(routing)
        trail = AuditTrail(accounts.recorder, server.trusted_proxies)
        self._minting = MintingEndpoint(
            admission,
            accounts.tokens,
            self._in_flight,
            cors,
            trail,
            trusted_proxies=server.trusted_proxies,
            observe=self._telemetry.on_response,
        )
        self.flask = create_flask_app(
            [
                Mount(blueprints.create_blueprint(self._endpoint), "/v1", None),
                Mount(blueprints.create_minting_blueprint(self._minting), minting.PATH, None),
                *management(
                    settings, accounts, pages, self._caching, trail, self._rate_limits.throttle
                ),
                Mount(status.create_blueprint(self), None, None),
                Mount(
                    metrics.create_blueprint(self._telemetry.read, stats_facts(settings)),
                    None,
                    MetricsGuard(settings.auth.metrics_token),
                ),
            ],
            self._telemetry.on_response,
            server.trusted_proxies,
        )
        self.stopping = False

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        target: str = environ.get("RAW_URI", "/")
        if target.startswith(self.relayed):
            mints = target.startswith(minting.PATH) and minting.handles(target)
            return (self._minting if mints else self._endpoint)(environ, start_response)
        if not target.startswith("/"):
            # Authority-form, `*` or a foreign scheme: the proxy is no forward proxy. The request
            # parser has turned an absolute-form target of this server into a path.
            refusal = ClientError("The request target must begin with `/`.")
            identifier = request_id(environ.get("HTTP_X_REQUEST_ID"))
            reply = error_reply(refusal, [("X-Proxy-Request-ID", identifier)])
            start_response(reply.status, reply.headers)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.body]
        return self.flask.wsgi_app(environ, start_response)  # type: ignore[arg-type]

    # What `/ready` reports.

    @property
    def database_seen(self) -> bool:
        accounts = self._accounts
        return bool(self._passthrough) or accounts.health.ready or accounts.known_tokens_only

    @property
    def revocation_lag(self) -> float | None:
        return self._accounts.change_poller.lag

    @property
    def database_state(self) -> str:
        if self._passthrough:
            return "not used"
        if self._accounts.known_tokens_only:
            return "down, known tokens only"
        return self._accounts.health.writes or self._accounts.health.state

    @property
    def keys_state(self) -> str:
        # `/ready` is public: it reports how many keys, and not which.
        return "" if self._passthrough else self._accounts.health.keys.partition(":")[0]

    def _redis_state(self) -> routing_health.RedisState:
        if not self._settings.redis_url:
            return "not used"
        up = self._accounts.change_poller.listening and self._rate_limits.is_up
        return "ok" if up else "unavailable"

    # What the worker calls.

    def error_response(self, error: ProxyError, status_line: str | None = None) -> Reply:
        """A response in the error shape, for a request that never reached a route."""
        reply = error_reply(error)
        return reply if status_line is None else reply._replace(status=status_line)

    def start(self) -> None:
        """Called once in the worker, before it accepts connections."""
        self._pump = event_pump(self._settings, self._queue, self._telemetry.events)
        self._telemetry.start()
        self._rate_limits.prepare()
        self._rate_limits.start()
        (self._passthrough or self._accounts).start()
        if self._routing is not None:
            self._routing.start()
        if self._passthrough is None and self._pump.recovery is not None:
            self._pump.recovery.killed = self._accounts.shortfalls.killed

    def begin_stop(self) -> None:
        """From now on `/ready` returns 503; everything else goes on."""
        self.stopping = True

    def cut(self) -> None:
        """Break off the responses in flight, and refuse new requests."""
        self._in_flight.drain()
        self._caching.cut()

    @property
    def is_busy(self) -> bool:
        """Whether a response is still read that no client of this worker waits for."""
        return self._caching.is_busy

    def close(self, deadline: float) -> None:
        """Flush events and counts within about `deadline` seconds. Idempotent."""
        pump, self._pump = self._pump, None
        if pump is None:
            return
        started = time.monotonic()
        self._caching.close(deadline / 8)
        if self._routing is not None:
            self._routing.close()
        self._stored_reads.close()
        self._accounts.flush(deadline * 0.75)
        self._rate_limits.close(deadline / 8)
        pump.close(deadline - (time.monotonic() - started))
        self._telemetry.close()
        self._transport.close()
        self._accounts.close()

    def _worker_routing(self) -> WorkerRouting:
        accounts = self._accounts
        routing = WorkerRouting(
            self._settings, accounts.routing_tables, accounts.key_health, self._transport
        )
        accounts.listeners.append(routing.changed)
        return routing

    def _routing_management(self, routing: WorkerRouting) -> RoutingManagement:
        accounts = self._accounts
        return RoutingManagement(
            accounts.database,
            accounts.cipher,
            accounts.routing_tables,
            accounts.key_health,
            KeyTester(PROVIDERS, self._transport),
            database_state=lambda: self.database_state,
            redis_state=self._redis_state,
            breakers=routing.states,
            models_error=routing.known_models.error,
            file=routing.file,
        )

    def _count_read(self, read: UsageEvent) -> None:
        self._rate_limits.counted(read)
        self._telemetry.counted(read)


def create_app(settings: Settings) -> Application:
    return Application(settings)
