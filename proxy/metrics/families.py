"""All metric families: name, kind, labels, and how values of several processes are merged.

Names, labels and label values are public (docs/metrics.md).

Note: the values of a label come from a closed set or are limited in number. Otherwise clients would
decide how much memory the monitoring needs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `merge` turns a gauge's values of several processes into the node's."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    merge: Callable[[Iterable[float]], float] = sum
    #: Upper bounds of a histogram's buckets, without the last, which is infinite.
    buckets: tuple[float, ...] = ()


_LONG: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 600.0),
)
_SHORT: Final = (
    *(0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name, "counter", text, labels)


def _gauge(
    name: str,
    text: str,
    *labels: str,
    merge: Callable[[Iterable[float]], float] = sum,
) -> Family:
    return Family(name, "gauge", text, labels, merge)


def _histogram(name: str, text: str, buckets: tuple[float, ...]) -> Family:
    return Family(name, "histogram", text, ("route",), buckets=buckets)


_ALL: Final = (
    _counter(
        "proxy_requests_total",
        "Requests that have ended.",
        *("route", "method", "status", "outcome"),
    ),
    _counter("proxy_errors_total", "Requests that ended with an error of the proxy's own.", "code"),
    _histogram(
        "proxy_request_duration_seconds", "From the request to the end of its response.", _LONG
    ),
    _histogram(
        "proxy_time_to_first_byte_seconds", "From the request to the response's first byte.", _LONG
    ),
    _histogram(
        "proxy_upstream_duration_seconds",
        "From having a connection to the upstream until its last byte.",
        _LONG,
    ),
    _histogram(
        "proxy_overhead_seconds",
        "Duration of completed requests without the upstream's part and the wait for a connection.",
        _SHORT,
    ),
    _counter(
        "proxy_provider_requests_total",
        "Attempts: requests that were sent to an upstream, by what came of them.",
        *("provider", "model", "status"),
    ),
    _counter(
        "proxy_fallbacks_total",
        "Moves of a request to another target of its alias, by the failure before.",
        *("model", "reason"),
    ),
    _gauge(
        "proxy_breaker_state",
        "Circuit breaker of a target: 0 closed, 1 half open, 2 open. The worst of all workers.",
        *("provider", "model"),
        merge=max,
    ),
    _gauge(
        "proxy_key_healthy",
        "1 while no worker lets the upstream key rest.",
        *("provider", "key_id"),
        merge=min,
    ),
    _counter(
        "proxy_retry_budget_exhausted_total",
        "Retries that were not made, since too many requests were retries.",
        "provider",
    ),
    _counter(
        "proxy_requests_cut_total", "Requests in flight that the proxy itself has ended.", "reason"
    ),
    _counter("proxy_rate_limited_total", "Requests refused because of a limit.", "reason"),
    _counter("proxy_limit_refusals_total", "Refusals by a rate or concurrency limit.", "limit"),
    _counter(
        "proxy_tokens_total",
        "Tokens that upstreams reported. Prompt contains cached, completion contains reasoning.",
        *("kind", "project", "model"),
    ),
    _counter(
        "proxy_saved_tokens_total",
        "Tokens of responses that the response cache served; upstreams reported them once.",
        "kind",
    ),
    _counter("proxy_body_bytes_total", "Bytes of request and response bodies.", "direction"),
    _gauge(
        "proxy_requests_in_flight", "Requests in flight: waiting for a response, or relaying it."
    ),
    _gauge("proxy_requests_in_flight_limit", "MAX_CONCURRENT_REQUESTS of all workers."),
    _counter("proxy_token_cache_lookups_total", "Access tokens looked up.", "result"),
    _gauge("proxy_token_cache_entries", "Access tokens remembered."),
    _counter(
        "proxy_cache_requests_total",
        "Requests of projects with a response cache, by what it did for them.",
        "result",
    ),
    _gauge("proxy_cache_entries", "Responses that the node stores.", merge=max),
    _gauge("proxy_cache_bytes", "Bytes of the responses that the node stores.", merge=max),
    _gauge("proxy_cache_limit_bytes", "MAX_CACHE_SIZE.", merge=max),
    _counter("proxy_cache_evictions_total", "Stored responses that were dropped.", "cause"),
    _counter("proxy_cache_rejected_total", "Responses that were not stored.", "reason"),
    _counter(
        "proxy_cache_errors_total",
        "Failures of what stores responses: each was a miss, or a response that was not stored.",
        "failure",
    ),
    _gauge("proxy_flights", "Upstream responses in flight that may have several readers."),
    _gauge("proxy_flight_readers", "Requests that read one of these."),
    _counter(
        "proxy_idempotent_total",
        "Requests with an idempotency key, by what came of the key.",
        "state",
    ),
    _gauge("proxy_upstream_idle_connections", "Connections to upstreams that are kept for reuse."),
    _counter(
        "proxy_upstream_connections_total",
        "Connections to upstreams that requests used: made, or reused.",
        "source",
    ),
    _gauge("proxy_event_queue_depth", "Usage events that wait in memory."),
    _gauge("proxy_event_queue_limit", "EVENT_QUEUE_SIZE of all workers."),
    _counter(
        "proxy_event_gate_total",
        "Requests that found the event queue full.",
        "result",
    ),
    _counter("proxy_events_dropped_total", "Usage events that were lost, by the place.", "where"),
    _counter("proxy_events_recovered_total", "Requests of killed workers that became events."),
    _counter("proxy_events_damaged_total", "Records in the spool that could not be read."),
    _counter("proxy_inflight_table_full_total", "Requests that found no slot for their event."),
    _gauge("proxy_sink_pending_events", "Usage events that a sink has not accepted yet.", "sink"),
    _counter("proxy_sink_delivered_total", "Usage events that a sink has accepted.", "sink"),
    _counter("proxy_sink_errors_total", "Writes that a sink has refused.", "sink"),
    _gauge(
        "proxy_sink_lag_seconds",
        "How long the oldest event has waited for the sink.",
        "sink",
        merge=max,
    ),
    _gauge("proxy_spool_kept_events", "Usage events that wait for the spool's disk."),
    _gauge("proxy_spool_bytes", "Size of the spool of all workers of the node.", merge=max),
    _gauge("proxy_spool_limit_bytes", "SPOOL_MAX_BYTES.", merge=max),
    _gauge(
        "proxy_revocation_lag_seconds",
        "From the last change on any node to its effect here.",
        merge=max,
    ),
    _gauge(
        "proxy_revocation_poll_age_seconds",
        "Time since a worker last could query the database for changes.",
        merge=max,
    ),
    _gauge(
        "proxy_revocation_listening",
        "1 while every worker receives changes of others through Redis; absent without Redis.",
        merge=min,
    ),
    _gauge("proxy_database_up", "1 while every worker reaches the database.", merge=min),
    _gauge("proxy_limiter_up", "1 while every worker's rate limits are exact.", merge=min),
    _counter("proxy_audit_entries_dropped_total", "Audit entries that were lost."),
    _gauge("proxy_permits_leased", "Requests of limited tokens leased to workers and unspent."),
    _counter(
        "proxy_housekeeping_rows_total",
        "Rows that the housekeeping has deactivated or deleted.",
        "task",
    ),
    _gauge("proxy_data_dir_free_bytes", "Free space of the file system of DATA_DIR.", merge=min),
    _gauge("proxy_data_dir_size_bytes", "Size of the file system of DATA_DIR.", merge=min),
    _gauge(
        "proxy_event_loop_lag_seconds",
        "How late the timer of the slowest worker was at its last tick.",
        merge=max,
    ),
    _gauge("proxy_workers", "Workers that serve."),
    _gauge("proxy_workers_expected", "WEB_CONCURRENCY.", merge=max),
    _counter(
        "proxy_process_starts_total", "Processes started since the server started.", "process"
    ),
    _counter("proxy_process_cpu_seconds_total", "CPU time, user and system.", "process"),
    _gauge(
        "proxy_process_resident_memory_bytes",
        "Resident memory of all of them together.",
        "process",
    ),
    _gauge("proxy_process_open_fds", "Open files of the process with most.", "process", merge=max),
    _gauge("proxy_process_max_fds", "Limit of open files of one process.", "process", merge=min),
    _gauge("proxy_start_time_seconds", "Start of the server, in unix time.", merge=min),
)

CATALOGUE: Final[Mapping[str, Family]] = {family.name: family for family in _ALL}
