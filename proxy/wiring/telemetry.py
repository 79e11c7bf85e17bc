"""What a worker reports about itself: metrics, their shared directory, the access log.

Note: it reads parts that it does not own. They come from `proxy.app` and may be not started yet, or
closed already.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from proxy import __version__
from proxy.core.usage_event import UsageEvent
from proxy.logs.access_log import AccessLog
from proxy.metrics import process
from proxy.metrics.multiprocess import NODE, MetricsDirectory, server_name
from proxy.metrics.reporter import Reporter
from proxy.metrics.request_metrics import RequestMetrics
from proxy.metrics.samples import Samples
from proxy.metrics.target_labels import TargetLabels
from proxy.metrics.worker_collector import WorkerCollector, WorkerParts
from proxy.settings.settings import Settings
from proxy.web import AccessRecord

T = TypeVar("T")


class Telemetry:
    """One per worker: `events` records ended requests, `on_response` the responses of Flask."""

    def __init__(
        self,
        settings: Settings,
        configured_models: Callable[[], Mapping[str, Collection[str]]],
        watchers: Sequence[Callable[[Sequence[UsageEvent]], None]],
        **parts: Any,
    ) -> None:
        """`configured_models` returns those of each provider that the configuration names.

        `watchers` receive all events, too, and neither wait nor raise.

        `parts` are the fields of `WorkerParts` that are no settings.
        """
        # The parent of a worker is gunicorn's master.
        master = os.getppid()
        folder = settings.data_dir.absolute() / "metrics"
        samples = Samples()
        targets = TargetLabels(configured_models)
        collector = WorkerCollector(
            WorkerParts(
                in_flight_limit=settings.server.max_concurrent_requests,
                queue_limit=settings.events.queue_size,
                data_dir=settings.data_dir,
                workers_expected=settings.server.web_concurrency or os.cpu_count() or 1,
                server_started=process.started(master),
                targets=targets,
                **parts,
            )
        )
        directories = [
            MetricsDirectory(folder / server_name(master)),
            MetricsDirectory(folder / NODE),
        ]
        self._watchers = watchers
        self._metrics = RequestMetrics(samples, targets)
        self._reporter = Reporter(samples, collector, directories)
        self._access_log = AccessLog() if settings.logs.access_log else None

    def start(self) -> None:
        self._reporter.start()

    def events(self, events: Sequence[UsageEvent]) -> None:
        """Record ended requests. Neither waits nor raises."""
        self._metrics.observe(events)
        for watch in self._watchers:
            watch(events)
        if self._access_log is not None:
            self._access_log.events(events)

    def counted(self, read: UsageEvent) -> None:
        """Record a read of a stored response that the ledger has counted."""
        self._metrics.tokens(read)

    def on_response(self, record: AccessRecord) -> None:
        self._metrics.count_response(record.route, record.method, record.status)
        if self._access_log is not None:
            self._access_log.log_response(*record[1:])

    def read(self, make: Callable[[Samples], T]) -> T:
        """Call `make` with the samples of all workers, on a thread, and return its result.

        Raises BackendError while the samples cannot be read.
        """
        return self._reporter.read(make)

    def close(self) -> None:
        """Idempotent. Called after the last event."""
        self._reporter.close()


def stats_facts(settings: Settings) -> dict[str, Any]:
    """What `/stats` shows of the settings. Contains no secret."""
    proxy = urlsplit(settings.upstream.proxy_url)
    return {
        "service": "openai-proxy",
        "version": __version__,
        "openai_url": settings.upstream.base_url,
        "proxy_url": f"{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}"
        if proxy.netloc
        else None,
        "rate_limit": {
            "per_ip_rpm": settings.limits.per_ip_rpm,
            "per_token_rpm": settings.limits.per_token_rpm,
            "per_project_rpm": settings.limits.per_project_rpm,
            "global_rpm": settings.limits.global_rpm,
            "on_error": settings.limits.on_error,
            "shared": bool(settings.redis_url),
        },
        "token_cache": {"ttl": settings.auth.cache_ttl},
        "cache": {"ttl": settings.cache.ttl},
    }
