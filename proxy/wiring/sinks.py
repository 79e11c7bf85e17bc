"""The options of the remote sinks, made of settings: for a worker and for the shipper.

A worker needs them only to know the sinks' names. A module of its own keeps the shipper free of
what a worker imports.
"""

from proxy.events.sinks.base import SinkOptions
from proxy.settings.settings import Settings


def sink_options(settings: Settings) -> SinkOptions:
    sinks = settings.sinks
    return SinkOptions(
        # Without projects there is no ledger to keep.
        ledger=not settings.auth.passthrough,
        cloudwatch_log_group=sinks.cloudwatch_log_group,
        cloudwatch_log_stream=sinks.cloudwatch_log_stream,
        logging_url=sinks.logging_url,
        logging_token=sinks.logging_token,
        redis_url=settings.redis_url,
        event_stream=sinks.event_stream,
        event_stream_max_length=sinks.event_stream_max_length,
    )
