"""The shipper's samples (``proxy/shipper/metrics.py``)."""

from pathlib import Path

from proxy.events.spool.offsets import Offset
from proxy.events.spool.segment import Batch
from proxy.metrics.multiprocess import NODE, MetricsDirectory
from proxy.shipper.metrics import SinkMetrics
from proxy.shipper.spool_consumer import SpoolConsumer
from tests.support import spool_factories
from tests.support.spool_factories import write
from tests.support.wait import wait_until


def test_each_sink_has_its_samples(tmp_path: Path) -> None:
    root = tmp_path / "spool"

    def good(_source: str, _start: Offset, batch: Batch) -> Offset:
        return batch.offset

    def bad(_source: str, _start: Offset, batch: Batch) -> Offset:
        raise ConnectionError

    writer = write(root, range(10))
    writer.append([b"damage\n"])
    spool_factories.append(writer, [10])
    consumers = [
        SpoolConsumer("good", good, root),
        SpoolConsumer("bad", bad, root, dead_letters=lambda: 7),
    ]
    figures = SinkMetrics(tmp_path, consumers)
    for consumer in consumers:
        consumer.start()
    wait_until(lambda: consumers[0].delivered == 11 and consumers[1].errors > 0)
    for consumer in consumers:
        consumer.finish()
        consumer.join(20)
    figures.publish()
    values = MetricsDirectory(tmp_path / "metrics" / NODE).read().values
    assert values["proxy_sink_delivered_total"] == {("good",): 11, ("bad",): 0}
    assert values["proxy_sink_errors_total"][("good",)] == 0
    assert values["proxy_sink_errors_total"][("bad",)] >= 1
    assert values["proxy_sink_pending_events"][("good",)] == 0
    assert values["proxy_sink_pending_events"][("bad",)] > 0
    assert values["proxy_sink_lag_seconds"][("good",)] == 0
    assert values["proxy_sink_lag_seconds"][("bad",)] > 0
    assert values["proxy_events_dropped_total"][("bad",)] == 7
    assert values["proxy_events_damaged_total"] == {(): 1}
    assert values["proxy_process_starts_total"] == {("shipper",): 1}
    figures.close()
