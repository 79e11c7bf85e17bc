"""What a worker tells about itself, put together: figures, their board, the access log.

The thing to get wrong: it looks at parts that it does not own, and that are not started yet or are
closed already; those come from :mod:`proxy.app`.
"""

import os
from collections.abc import Callable, Sequence
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
from proxy.metrics.worker_collector import Parts, WorkerCollector
from proxy.settings.settings import Settings
from proxy.web import AccessRecord

T = TypeVar("T")


class Telemetry:
    """One per worker: :meth:`events` and :meth:`page` are told what has ended."""

    def __init__(
        self,
        settings: Settings,
        provider: str,
        watchers: Sequence[Callable[[Sequence[UsageEvent]], None]],
        **parts: Any,
    ) -> None:
        """``watchers`` see all events, too, and neither wait nor raise; ``parts``: those of
        :class:`Parts` that are no settings."""
        # In a worker this is gunicorn's master.
        master = os.getppid()
        folder = settings.data_dir.absolute() / "metrics"
        figures = Samples()
        vitals = WorkerCollector(
            Parts(
                live_limit=settings.server.max_concurrent_requests,
                queue_limit=settings.events.queue_size,
                data_dir=settings.data_dir,
                workers_expected=settings.server.web_concurrency or os.cpu_count() or 1,
                server_started=process.started(master),
                **parts,
            )
        )
        boards = [MetricsDirectory(folder / server_name(master)), MetricsDirectory(folder / NODE)]
        self._watchers = watchers
        self._tally = RequestMetrics(figures, provider)
        self._reporter = Reporter(figures, vitals, boards)
        self._access_log = AccessLog() if settings.logs.access_log else None

    def start(self) -> None:
        self._reporter.start()

    def events(self, events: Sequence[UsageEvent]) -> None:
        """Neither waits nor raises."""
        self._tally.observe(events)
        for watch in self._watchers:
            watch(events)
        if self._access_log is not None:
            self._access_log.events(events)

    def counted(self, read: UsageEvent) -> None:
        """The ledger has counted a read of a stored response."""
        self._tally.tokens(read)

    def page(self, answered: AccessRecord) -> None:
        self._tally.page(answered.route, answered.method, answered.status)
        if self._access_log is not None:
            self._access_log.page(*answered[1:])

    def read(self, make: Callable[[Samples], T]) -> T:
        """What ``make`` makes of those of all workers, on a thread. BackendError: not to be had
        right now."""
        return self._reporter.read(make)

    def close(self) -> None:
        """Idempotent; after the last event."""
        self._reporter.close()


def stats_facts(settings: Settings) -> dict[str, Any]:
    """What ``/stats`` says about the settings. No secret."""
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
        "cache": {"ttl": settings.auth.cache_ttl},
    }
