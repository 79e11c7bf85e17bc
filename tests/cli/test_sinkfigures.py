"""The shipper's figures (``proxy/cli/sinkfigures.py``)."""

from pathlib import Path

from proxy.cli.sinkfigures import SinkFigures
from proxy.events.carrier import Carrier
from proxy.events.positions import Position
from proxy.events.segments import Batch
from proxy.metrics.board import NODE, Board
from tests.events import spooling
from tests.events.spooling import write
from tests.waiting import wait_until


def test_of_each_sink(tmp_path: Path) -> None:
    root = tmp_path / "spool"

    def good(_source: str, _start: Position, batch: Batch) -> Position:
        return batch.position

    def bad(_source: str, _start: Position, batch: Batch) -> Position:
        raise ConnectionError

    writer = write(root, range(10))
    writer.append([b"damage\n"])
    spooling.append(writer, [10])
    carriers = [Carrier("good", good, root), Carrier("bad", bad, root, dead_letters=lambda: 7)]
    figures = SinkFigures(tmp_path, carriers)
    for carrier in carriers:
        carrier.start()
    wait_until(lambda: carriers[0].delivered == 11 and carriers[1].errors > 0)
    for carrier in carriers:
        carrier.finish()
        carrier.join(20)
    figures.publish()
    values = Board(tmp_path / "metrics" / NODE).read().values
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
