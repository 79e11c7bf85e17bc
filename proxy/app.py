"""The composition root: the one place that knows concrete classes.

Made in each worker, after the fork; nothing connects, spawns or listens before :meth:`start`.
"""

import time
from collections.abc import Iterable
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
from proxy.providers.base import Target
from proxy.quota.stored_reads import Reads
from proxy.routing.dispatcher import Dispatcher
from proxy.settings.settings import Settings
from proxy.store.audit import AuditLog
from proxy.store.usage import UsageLedger
from proxy.upstream.adapter import UpstreamAdapter
from proxy.upstream.transport import SessionTransport
from proxy.web import Mount, blueprints, create_flask_app, metrics, status
from proxy.web.api import audit, minting, projects, tokens, usage
from proxy.web.api.minting import MintingEndpoint
from proxy.web.audit_trail import AuditTrail
from proxy.web.guards import LoginLimiter, ManagementGuard, MetricsGuard
from proxy.wiring.accounts import AccountServices
from proxy.wiring.events import event_pump, event_queue
from proxy.wiring.ratelimit import RateLimiting
from proxy.wiring.telemetry import Telemetry, stats_facts

_NOTHING_TO_MANAGE: Final = (
    "This node relays its clients' own keys (AUTH_MODE=passthrough): it keeps no projects, access"
    " tokens or usage, and uses no database."
)


def management(
    settings: Settings, registry: AccountServices, trail: AuditTrail, logins: LoginLimiter
) -> list[Mount]:
    """Everything below ``/manage``, behind one guard. ``logins`` is told of each that is refused,
    ``trail`` of each call that changes something."""
    guard = ManagementGuard(
        settings.auth.management_token, logins, settings.server.trusted_proxies, trail.refused_login
    )
    if settings.auth.mode == "passthrough":
        return [
            Mount(
                blueprints.create_disabled_blueprint("absent", _NOTHING_TO_MANAGE), "/manage", guard
            )
        ]
    stores = registry.projects, registry.tokens
    ledger = UsageLedger(registry.database)
    announce = registry.announce
    return [
        Mount(
            projects.create_blueprint(*stores, trail, announce=announce), "/manage/projects", guard
        ),
        Mount(tokens.create_blueprint(*stores, trail, announce=announce), "/manage/tokens", guard),
        Mount(audit.create_blueprint(AuditLog(registry.database)), "/manage/audit", guard),
        Mount(usage.create_blueprint(ledger, settings.prices_file), "/manage/usage", guard),
    ]


def upstream_adapter(settings: Settings) -> UpstreamAdapter:
    return UpstreamAdapter(
        pool_size=settings.upstream.pool_size,
        connect_timeout=settings.upstream.connect_timeout,
        proxy_url=settings.upstream.proxy_url,
    )


def session_transport(settings: Settings, adapter: UpstreamAdapter) -> SessionTransport:
    session = requests.Session()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return SessionTransport(
        session,
        connect_timeout=settings.upstream.connect_timeout,
        read_timeout=settings.upstream.read_timeout,
    )


def bounds(settings: Settings) -> RelayOptions:
    return RelayOptions(
        request_bytes=settings.gateway.max_request_bytes,
        json_bytes=settings.gateway.max_json_bytes,
        # One body alone may be as large as it likes, up to its own bounds.
        held=HeldBodies(settings.gateway.held_bodies_max_bytes),
        trusted_proxies=settings.server.trusted_proxies,
        sse_keepalive=settings.gateway.sse_keepalive,
    )


class Application:
    """The WSGI callable, and the life of what works behind it in one worker."""

    #: Targets that go to the relay, which takes the request's stats_facts from ``wsgi.input``.
    relayed = "/v1/"

    def __init__(self, settings: Settings) -> None:
        sanitizer.learn(settings.known_secrets())
        self._settings = settings
        self.client_timeout = settings.server.client_timeout
        self.keepalive_timeout = settings.server.keepalive_timeout
        self.min_body_rate = settings.server.min_body_rate
        # Behind trusted proxies all connections are theirs.
        self.connection_share = (
            1.0 if settings.server.trusted_proxies else settings.server.fair_share
        )
        self.profile_dir = settings.server.profile_dir
        self._queue = event_queue(settings)
        self._drain: EventPump | None = None
        self._live = InFlightRequests(
            settings.server.max_concurrent_requests, settings.server.fair_share
        )
        self._limits = RateLimiting(settings)
        self._registry = registry = AccountServices(settings, self._live, self._queue)
        #: Set where clients bring keys of their own: then nothing here uses the database.
        without = settings.auth.mode == "passthrough"
        self._pass_through = PassThrough(settings.data_dir.absolute()) if without else None
        admission = Admission(
            self._pass_through or registry.authenticator, self._limits.throttle, self._queue.gate
        )
        cors = Cors(settings.gateway.cors_allowed_origins)
        adapter = upstream_adapter(settings)
        self._transport = session_transport(settings, adapter)
        self._endpoint = RelayEndpoint(
            admission,
            Dispatcher(
                PROVIDERS["openai"](),
                Target.from_url(settings.upstream.base_url),
                self._transport,
            ),
            self._queue,
            self._live,
            cors,
            bounds(settings),
        )
        self._reads = Reads(
            registry.counted_ids, self._count_read, each=not settings.retention.counted_ids_days
        )
        self._observation = Telemetry(
            settings,
            "openai",
            [registry.recorder.denials.events, self._reads.events],
            live=self._live,
            cache=registry.authenticator.cache,
            pools=adapter.pools.values,
            queue=self._queue,
            drain=lambda: self._drain,
            revocation=None if without else registry.revocation,
            database_up=None if without else lambda: registry.health.state == "ok",
            permits=lambda: registry.leases.outstanding,
            audit_dropped=lambda: registry.recorder.dropped,
            chores=registry.housekeeper.rows,
            limits=self._limits,
        )
        trail = AuditTrail(registry.recorder, settings.server.trusted_proxies)
        self._minting = MintingEndpoint(
            admission,
            registry.tokens,
            self._live,
            cors,
            trail,
            trusted_proxies=settings.server.trusted_proxies,
            observe=self._observation.page,
        )
        self.flask = create_flask_app(
            [
                Mount(blueprints.create_blueprint(self._endpoint), "/v1", None),
                Mount(blueprints.create_minting_blueprint(self._minting), minting.PATH, None),
                *management(settings, registry, trail, self._limits.throttle),
                Mount(status.create_blueprint(self), None, None),
                Mount(
                    metrics.create_blueprint(self._observation.read, stats_facts(settings)),
                    None,
                    MetricsGuard(settings.auth.metrics_token),
                ),
            ],
            self._observation.page,
            settings.server.trusted_proxies,
        )
        self.stopping = False

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        target: str = environ.get("RAW_URI", "/")
        if target.startswith(self.relayed):
            ours = target.startswith(minting.PATH) and minting.handles(target)
            return (self._minting if ours else self._endpoint)(environ, start_response)
        if not target.startswith("/"):
            # Authority-form, `*`, a foreign scheme: the proxy is no forward proxy. Absolute-form of
            # its own address has become a path in `http1/head`.
            refusal = ClientError("The request target must begin with `/`.")
            name = request_id(environ.get("HTTP_X_REQUEST_ID"))
            reply = error_reply(refusal, [("X-Proxy-Request-ID", name)])
            start_response(reply.status, reply.headers)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.body]
        return self.flask.wsgi_app(environ, start_response)  # type: ignore[arg-type]

    # What `/ready` tells.

    @property
    def database_seen(self) -> bool:
        registry = self._registry
        return bool(self._pass_through) or registry.health.ready or registry.known_tokens_only

    @property
    def revocation_lag(self) -> float | None:
        return self._registry.revocation.lag

    @property
    def database_state(self) -> str:
        if self._pass_through:
            return "not used"
        if self._registry.known_tokens_only:
            return "down, known tokens only"
        return self._registry.health.writes or self._registry.health.state

    @property
    def keys_state(self) -> str:
        # `/ready` is open to all: how many, and not which.
        return "" if self._pass_through else self._registry.health.keys.partition(":")[0]

    # The worker's side.

    def error_answer(self, error: ProxyError, status_line: str | None = None) -> Reply:
        """An answer in the error shape, for what never reached a route."""
        reply = error_reply(error)
        return reply if status_line is None else reply._replace(status=status_line)

    def start(self) -> None:
        """Called once in the worker, before it accepts."""
        self._drain = event_pump(self._settings, self._queue, self._observation.events)
        self._observation.start()
        self._limits.prepare()
        self._limits.start()
        (self._pass_through or self._registry).start()
        if self._pass_through is None and self._drain.recovery is not None:
            self._drain.recovery.killed = self._registry.shortfalls.killed

    def begin_stop(self) -> None:
        """``/ready`` answers 503 from now on; everything else goes on."""
        self.stopping = True

    def cut(self) -> None:
        """End the answers that are still running, broken; refuse what comes now."""
        self._live.drain()

    def close(self, deadline: float) -> None:
        """Flush events and counts within about ``deadline`` seconds; idempotent."""
        drain, self._drain = self._drain, None
        if drain is None:
            return
        started = time.monotonic()
        self._reads.close()
        self._registry.flush(deadline * 0.75)
        self._limits.close(deadline / 8)
        drain.close(deadline - (time.monotonic() - started))
        self._observation.close()
        self._transport.close()
        self._registry.close()

    def _count_read(self, read: UsageEvent) -> None:
        self._limits.counted(read)
        self._observation.counted(read)


def create_app(settings: Settings) -> Application:
    return Application(settings)
