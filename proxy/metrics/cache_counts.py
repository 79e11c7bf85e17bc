"""The response cache as one worker sees it, and the samples made of that.

Requests that the cache served are counted by their events (:mod:`proxy.metrics.request_metrics`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.metrics.samples import Samples

#: All values of the label `result`, and those of them that have a usage event of their own.
RESULTS: Final = ("hit", "miss", "bypass", "stale", "collapsed", "replayed")
SERVED: Final = frozenset({"hit", "stale", "collapsed", "replayed"})
_KINDS: Final = ("prompt", "completion")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCounts:
    """Sizes are those of the node, at this moment. Counts are this worker's, since its start."""

    #: Stored responses, their bytes, and `MAX_CACHE_SIZE` in bytes.
    entries: int = 0
    bytes: int = 0
    limit_bytes: int = 0
    #: Requests that were not served by the cache: `miss`, `bypass`.
    results: Mapping[str, int] = field(default_factory=dict)
    #: Stored responses that were dropped, by cause; responses that were not stored, by reason.
    evictions: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    #: Failures of the stores, by store and kind. Each was a miss or a response that was not stored.
    errors: Mapping[str, int] = field(default_factory=dict)
    #: Responses in flight that may be shared, and the requests that read them.
    flights: int = 0
    readers: int = 0
    #: Requests with an `Idempotency-Key`, by what came of the key.
    idempotent: Mapping[str, int] = field(default_factory=dict)


def measure(samples: Samples, counts: CacheCounts) -> None:
    """Set the samples of `counts`.

    Every result has a sample from the start, so that the first one shows as a rise.
    """
    samples.set("proxy_cache_entries", counts.entries)
    samples.set("proxy_cache_bytes", counts.bytes)
    samples.set("proxy_cache_limit_bytes", counts.limit_bytes)
    samples.set("proxy_flights", counts.flights)
    samples.set("proxy_flight_readers", counts.readers)
    for result in RESULTS:
        if result in SERVED:
            samples.count("proxy_cache_requests_total", (result,), 0)
        else:
            samples.set("proxy_cache_requests_total", counts.results.get(result, 0), (result,))
    for kind in _KINDS:
        samples.count("proxy_saved_tokens_total", (kind,), 0)
    for name, series in (
        ("proxy_cache_evictions_total", counts.evictions),
        ("proxy_cache_rejected_total", counts.rejected),
        ("proxy_cache_errors_total", counts.errors),
        ("proxy_idempotent_total", counts.idempotent),
    ):
        for label, count in series.items():
            samples.set(name, count, (label,))
