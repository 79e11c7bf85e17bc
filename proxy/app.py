"""The composition root: the one place that knows concrete classes.

Made in each worker, after the fork; nothing connects, spawns or listens before :meth:`start`.
"""

import time
from collections.abc import Iterable
from typing import Any

from proxy import sanitizer
from proxy.auth.passthrough import PassThrough
from proxy.auth.reads import Reads
from proxy.composition.events import event_drain, event_queue
from proxy.composition.limits import Limits
from proxy.composition.observation import Observation, facts
from proxy.composition.registry import Registry
from proxy.composition.relay import bounds, session_transport, upstream_adapter
from proxy.composition.rooms import management
from proxy.errors import ClientError, ProxyError
from proxy.events.drain import Drain
from proxy.events.event import UsageEvent
from proxy.providers import PROVIDERS
from proxy.providers.base import Target
from proxy.relay.relay import Relay
from proxy.relay.watch import LiveRequests
from proxy.settings import Settings
from proxy.web import Room, create_flask_app, doors, metrics, minting, status
from proxy.web.admission import Admission
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
        sanitizer.learn(settings.known_secrets())
        self._settings = settings
        self.client_timeout = settings.client_timeout
        self.keepalive_timeout = settings.keepalive_timeout
        self.min_body_rate = settings.min_body_rate
        # Behind trusted proxies all connections are theirs.
        self.connection_share = 1.0 if settings.trusted_proxies else settings.fair_share
        self.profile_dir = settings.profile_dir
        self._queue = event_queue(settings)
        self._drain: Drain | None = None
        self._live = LiveRequests(settings.max_concurrent_requests, settings.fair_share)
        self._limits = Limits(settings)
        self._registry = registry = Registry(settings, self._live, self._queue)
        #: Set where clients bring keys of their own: then nothing here uses the database.
        without = settings.auth_mode == "passthrough"
        self._pass_through = PassThrough(settings.data_dir.absolute()) if without else None
        admission = Admission(
            self._pass_through or registry.authenticator, self._limits.throttle, self._queue.gate
        )
        cors = Cors(settings.cors_allowed_origins)
        adapter = upstream_adapter(settings)
        self._transport = session_transport(settings, adapter)
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
            bounds(settings),
        )
        self._reads = Reads(
            registry.counted_ids, self._count_read, each=not settings.counted_ids_days
        )
        self._observation = Observation(
            settings,
            "openai",
            [registry.recorder.refusals.events, self._reads.events],
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
        trail = Trail(registry.recorder, settings.trusted_proxies)
        self._minting = MintingEndpoint(
            admission,
            registry.tokens,
            self._live,
            cors,
            trail,
            trusted_proxies=settings.trusted_proxies,
            observe=self._observation.page,
        )
        self.flask = create_flask_app(
            [
                Room(doors.create_blueprint(self._endpoint), "/v1", None),
                Room(doors.create_minting_blueprint(self._minting), minting.PATH, None),
                *management(settings, registry, trail, self._limits.throttle),
                Room(status.create_blueprint(self), None, None),
                Room(
                    metrics.create_blueprint(self._observation.read, facts(settings)),
                    None,
                    MetricsGuard(settings.metrics_token),
                ),
            ],
            self._observation.page,
            settings.trusted_proxies,
        )
        self.stopping = False

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        target: str = environ.get("RAW_URI", "/")
        if target.startswith(self.relayed):
            ours = target.startswith(minting.PATH) and minting.takes(target)
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
        self._drain = event_drain(self._settings, self._queue, self._observation.events)
        self._observation.start()
        self._limits.prepare()
        self._limits.start()
        (self._pass_through or self._registry).start()
        if self._pass_through is None and self._drain.adoption is not None:
            self._drain.adoption.killed = self._registry.shortfalls.killed

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
