"""The shipper's samples, stored beside those of the workers: ``/metrics`` shows both.

Counters are those of this process and start at 0. The counters of earlier shippers are in the
node's totals already.
"""

from collections.abc import Sequence
from pathlib import Path

from proxy.metrics import process
from proxy.metrics.multiprocess import NODE, MetricsDirectory
from proxy.metrics.samples import Samples
from proxy.shipper.spool_consumer import SpoolConsumer


class SinkMetrics:
    """Samples of all consumers. Published about once a second, always by the same thread."""

    def __init__(self, data_dir: Path, consumers: Sequence[SpoolConsumer]) -> None:
        self._consumers = consumers
        self._samples = Samples()
        self._writer = MetricsDirectory(data_dir / "metrics" / NODE).writer("shipper")

    def publish(self) -> None:
        """Raises OSError."""
        samples = self._samples
        for consumer in self._consumers:
            sink = (consumer.name,)
            samples.set("proxy_sink_lag_seconds", consumer.lag, sink)
            samples.set("proxy_sink_pending_events", consumer.pending_events, sink)
            samples.set("proxy_sink_delivered_total", consumer.delivered, sink)
            samples.set("proxy_sink_errors_total", consumer.errors, sink)
            samples.set("proxy_events_dropped_total", consumer.dead_letters, sink)
        damaged = sum(consumer.damaged for consumer in self._consumers)
        samples.set("proxy_events_damaged_total", damaged)
        process.measure(samples, "shipper")
        self._writer.publish(samples)

    def close(self) -> None:
        self._writer.close()
