"""The shipper: one process a node that brings every worker's spool to the remote sinks.

Remote sinks are not the workers' business, because their CPU and their stalls would hold up every
stream. The thing to get wrong: two shippers on one spool would deliver everything twice, so whoever
has not got the lock waits.
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

_LOOK: Final = 0.25
_SHOW: Final = 1.0
_LOCK: Final = "shipper.lock"


def remote_consumers(settings: Settings, root: Path) -> list[SpoolConsumer]:
    """One for each remote sink that ``settings`` ask for."""
    options, dead = sink_options(settings), settings.data_dir / "dead-letters"
    return [_consumer(name, options, root, dead) for name in configured(options)]


def _consumer(name: str, options: SinkOptions, root: Path, dead_letters: Path) -> SpoolConsumer:
    dead = DeadLetterFile(dead_letters / f"{name}.jsonl")
    sink = open_remote(name, options, dead)
    return SpoolConsumer(
        name, _lines_to(sink), root, close=sink.close, dead_letters=lambda: dead.count
    )


def _lines_to(sink: Sink) -> Handler:
    def take(_source: str, _start: Offset, batch: Batch) -> Offset:
        sink.write(batch.lines)
        return batch.position

    return take


class Shipper:
    """All consumers of a node. ``publish`` is called about once a second, with their figures."""

    def __init__(
        self, consumers: Sequence[SpoolConsumer], publish: Callable[[], None] = lambda: None
    ) -> None:
        self.consumers = consumers
        self._publish = publish

    def run(self, ended: threading.Event, deadline: float) -> bool:
        """Until ``ended`` is set, and then up to ``deadline`` seconds more for what is there.

        Whether everything was delivered. What was not stays in the spool.
        """
        names = ", ".join(consumer.name for consumer in self.consumers)
        _log.info("shipping usage events to %s", names or "nobody")
        for consumer in self.consumers:
            consumer.start()
        while not ended.wait(_SHOW):
            self._show()
        for consumer in self.consumers:
            consumer.finish()
        end = time.monotonic() + deadline
        left = [
            consumer.name
            for consumer in self.consumers
            if not consumer.join(max(0.0, end - time.monotonic())) or consumer.trouble
        ]
        self._show()
        if left:
            _log.warning("events for %s stay in the spool until the next start", ", ".join(left))
        return not left

    def _show(self) -> None:
        try:
            self._publish()
        except Exception as error:  # noqa: BLE001
            _log.warning("the figures of the sinks cannot be published: %s", error)


@contextlib.contextmanager
def shipper_lock(root: Path, give_up: Callable[[float], bool]) -> Iterator[bool]:
    """Holds the lock of the node's shipper; False when ``give_up(seconds)`` said so first.

    ``give_up`` waits that long at most. One that is starting meets one that is ending at every
    reload.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while True:
            if filelock.try_lock(descriptor):
                yield True
                return
            if not told:
                _log.info("another shipper works on %s: waiting for its end", root)
            told = True
            if give_up(_LOOK):
                yield False
                return
    finally:
        os.close(descriptor)
