"""The shipper's figures, put where the workers' are: ``/metrics`` shows both.

The thing to get wrong: counters are this process's own, from 0 on. Those of the shippers before it
are in the node's totals already.
"""

from collections.abc import Sequence
from pathlib import Path

from proxy.metrics import process
from proxy.metrics.multiprocess import NODE, MetricsDirectory
from proxy.metrics.samples import Samples
from proxy.shipper.spool_consumer import SpoolConsumer


class SinkMetrics:
    """Called about once a second, always by the same thread."""

    def __init__(self, data_dir: Path, consumers: Sequence[SpoolConsumer]) -> None:
        self._consumers = consumers
        self._figures = Samples()
        self._writer = MetricsDirectory(data_dir / "metrics" / NODE).writer("shipper")

    def publish(self) -> None:
        """Raises OSError."""
        figures = self._figures
        for consumer in self._consumers:
            sink = (consumer.name,)
            figures.set("proxy_sink_lag_seconds", consumer.lag, sink)
            figures.set("proxy_sink_pending_events", consumer.pending_events, sink)
            figures.set("proxy_sink_delivered_total", consumer.delivered, sink)
            figures.set("proxy_sink_errors_total", consumer.errors, sink)
            figures.set("proxy_events_dropped_total", consumer.dead_letters, sink)
        damaged = sum(consumer.damaged for consumer in self._consumers)
        figures.set("proxy_events_damaged_total", damaged)
        process.measure(figures, "shipper")
        self._writer.publish(figures)

    def close(self) -> None:
        self._writer.close()
