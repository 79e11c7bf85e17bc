"""The shipper: one process a node that brings every worker's spool to the remote sinks.

Workers do not write to remote sinks, because the CPU time and the stalls of a sink would delay
every stream. Two shippers on one spool would deliver everything twice, so a second one waits for
the lock.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from proxy.events.dead_letters import DeadLetterFile
from proxy.events.sinks import configured, open_remote
from proxy.events.sinks.base import Sink, SinkOptions
from proxy.events.spool.offsets import Offset
from proxy.events.spool.segment import Batch
from proxy.runtime import filelock
from proxy.settings.settings import Settings
from proxy.shipper.spool_consumer import Handler, SpoolConsumer
from proxy.wiring.sinks import sink_options

_log = logging.getLogger(__name__)

_LOCK_RETRY_SECONDS: Final = 0.25
_PUBLISH_INTERVAL_SECONDS: Final = 1.0
_LOCK: Final = "shipper.lock"


def remote_consumers(settings: Settings, root: Path) -> list[SpoolConsumer]:
    """One consumer for each remote sink that `settings` configure."""
    options, dead = sink_options(settings), settings.data_dir / "dead-letters"
    return [_consumer(name, options, root, dead) for name in configured(options)]


def _consumer(name: str, options: SinkOptions, root: Path, dead_letters: Path) -> SpoolConsumer:
    dead = DeadLetterFile(dead_letters / f"{name}.jsonl")
    sink = open_remote(name, options, dead)
    return SpoolConsumer(
        name, _handler_of(sink), root, close=sink.close, dead_letters=lambda: dead.count
    )


def _handler_of(sink: Sink) -> Handler:
    def handle(_source: str, _start: Offset, batch: Batch) -> Offset:
        sink.write(batch.lines)
        return batch.offset

    return handle


class Shipper:
    """Runs all consumers of a node, and calls `publish` about once a second."""

    def __init__(
        self, consumers: Sequence[SpoolConsumer], publish: Callable[[], None] = lambda: None
    ) -> None:
        self.consumers = consumers
        self._publish = publish

    def run(self, ended: threading.Event, deadline: float) -> bool:
        """Deliver until `ended` is set, and then for up to `deadline` seconds what is there.

        Returns whether everything was delivered. The rest stays in the spool.
        """
        names = ", ".join(consumer.name for consumer in self.consumers)
        _log.info("shipping usage events to %s", names or "no sink")
        for consumer in self.consumers:
            consumer.start()
        while not ended.wait(_PUBLISH_INTERVAL_SECONDS):
            self._publish_metrics()
        for consumer in self.consumers:
            consumer.finish()
        end = time.monotonic() + deadline
        left = [
            consumer.name
            for consumer in self.consumers
            if not consumer.join(max(0.0, end - time.monotonic())) or consumer.trouble
        ]
        self._publish_metrics()
        if left:
            _log.warning("events for %s stay in the spool until the next start", ", ".join(left))
        return not left

    def _publish_metrics(self) -> None:
        try:
            self._publish()
        except Exception as error:  # noqa: BLE001
            _log.warning("metrics of the sinks cannot be published: %s", error)


@contextlib.contextmanager
def shipper_lock(root: Path, give_up: Callable[[float], bool]) -> Iterator[bool]:
    """Hold the lock of the node's shipper. Yields False if `give_up(seconds)` returns true first.

    `give_up` waits at most that long. At every reload a starting shipper meets an ending one.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        reported = False
        while True:
            if filelock.try_lock(descriptor):
                yield True
                return
            if not reported:
                _log.info("another shipper has the spool %s: this one waits for its end", root)
            reported = True
            if give_up(_LOCK_RETRY_SECONDS):
                yield False
                return
    finally:
        os.close(descriptor)
