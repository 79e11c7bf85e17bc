"""From a Redis stream to one sink: what ``manage.py events dispatch`` runs.

Any number of dispatchers in one group share the entries; each group gets them all. An entry is
acknowledged when the sink has accepted it, so the entries of a killed dispatcher are delivered
again, to it or to another.

Note: an event that no sink accepts and a sink that is away look the same. An entry goes to the
dead-letter stream only when others were accepted beside it, or when it was delivered so often that
it must be what kills its dispatchers.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from proxy.events.sinks import from_event_log, open_remote
from proxy.events.sinks.base import Sink
from proxy.runtime.backoff import Backoff
from proxy.runtime.failure_log import FailureLog
from proxy.settings.settings import Settings
from proxy.shipper.process import configure_log, stop_at_signal
from proxy.shipper.redis_group import ConsumerGroup, Entry, StreamDeadLetters
from proxy.shipper.status_server import StatusServer
from proxy.wiring.sinks import sink_options

_log = logging.getLogger(__name__)

_BATCH: Final = 500
_WAIT_SECONDS: Final = 1.0
#: Failures in a row, each of an entry alone, after which the sink counts as away.
_MAX_FAILURES_ALONE: Final = 3
_FAILURES: Final = {
    "Redis": "fails, waiting for it",
    "sink": "fails, its events are kept",
}


class Dispatcher:
    """Delivers a stream's entries to one sink. Runs on the thread that calls :meth:`run`; any
    thread may call :meth:`stop`."""

    def __init__(
        self,
        group: ConsumerGroup,
        sink: Sink,
        dead: StreamDeadLetters,
        *,
        max_tries: int,
        claim_idle: float,
        backoff: Backoff | None = None,
    ) -> None:
        """`claim_idle` is in seconds: entries that another consumer holds longer are claimed."""
        self._group = group
        self._sink = sink
        self._dead = dead
        self._max_tries = max_tries
        self._claim_idle = claim_idle
        self._backoff = backoff or Backoff()
        self._stopping = threading.Event()
        # Read from the stream and not accepted by the sink yet, oldest first.
        self._held: list[Entry] = []
        # Ids accepted by the sink and not acknowledged yet.
        self._done: list[str] = []
        self._tries = 0
        self._next_claim = 0.0
        # This consumer's pending entries are read once only: each read counts as a delivery.
        self._recovered = False
        self._recovered_to = "0"
        #: The last failure; None while everything works.
        self.trouble: str | None = "not connected yet"
        self.delivered = 0
        self.errors = 0
        self._failures = {
            name: FailureLog(_log.log, f"dispatcher: {name}", text, level=logging.ERROR)
            for name, text in _FAILURES.items()
        }

    def metrics(self) -> str:
        """The Prometheus exposition. The lag is read from Redis, and left out when that fails."""
        metrics: list[tuple[str, str, float | None]] = [
            ("delivered_total", "counter", self.delivered),
            ("errors_total", "counter", self.errors),
            ("dead_letters_total", "counter", self._dead.count),
            ("claimed_total", "counter", self._group.claimed),
            ("lost_total", "counter", self._group.lost),
            ("held_events", "gauge", len(self._held)),
            ("ready", "gauge", self.trouble is None),
            ("lag_events", "gauge", self._lag()),
        ]
        return "".join(
            f"# TYPE proxy_dispatcher_{name} {kind}\nproxy_dispatcher_{name} {value + 0}\n"
            for name, kind, value in metrics
            if value is not None
        )

    def _lag(self) -> int | None:
        try:
            return self._group.lag()
        except Exception:  # noqa: BLE001
            return None

    def stop(self) -> None:
        """End :meth:`run`, after a write that is in progress."""
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            well = self._tried("Redis", self._fetch) and self._tried("sink", self._deliver)
            well = self._tried("Redis", self._acknowledge) and well
            if well:
                self._report_success()
            else:
                self._stopping.wait(self._backoff.pause())
        self._tried("Redis", self._acknowledge)
        self._tried("Redis", self._release)
        self._sink.close()
        self._group.close()

    def _tried(self, what: str, step: Callable[[], None]) -> bool:
        try:
            step()
        except Exception as error:  # noqa: BLE001
            self._failures[what].failed(error)
            self.trouble = f"{what}: {type(error).__name__}"
            self.errors += 1
            return False
        return True

    def _report_success(self) -> None:
        if self.trouble is not None:
            for failures in self._failures.values():
                failures.worked()
            _log.info("dispatcher: events are dispatched")
        self.trouble = None
        self._backoff.reset()

    def _fetch(self) -> None:
        """Fill the batch: own pending entries first, then those of ended consumers, then new."""
        if self.trouble is not None:
            self._group.create()  # Redis may have been emptied
        if not self._recovered and self._room:
            before = self._group.pending(self._room, self._recovered_to)
            self._accept(before)
            self._recovered = not before
            self._recovered_to = before[-1].id if before else self._recovered_to
        self._group.renew([entry.id for entry in self._held])
        if time.monotonic() >= self._next_claim and self._room:
            claimed = self._group.claim(self._room, self._claim_idle)
            self._accept(claimed)
            if len(claimed) == 0:
                self._next_claim = time.monotonic() + self._claim_idle / 4
        if self._recovered and self._room:
            # Also beside entries that fail: an entry is at fault only if others are accepted.
            self._accept(self._group.new(self._room, 0 if self._held else _WAIT_SECONDS))

    @property
    def _room(self) -> int:
        return _BATCH - len(self._held)

    def _accept(self, entries: Sequence[Entry]) -> None:
        """Add `entries` to the batch, without those that killed their dispatchers."""
        known = {entry.id for entry in self._held} | set(self._done)
        for entry in entries:
            if entry.id in known:
                continue
            if entry.deliveries > self._max_tries:
                self._dead_letter(entry, f"delivered {entry.deliveries} times")
            else:
                self._held.append(entry)

    def _deliver(self) -> None:
        if not self._held:
            return
        try:
            self._sink.write([entry.line for entry in self._held])
        except Exception:
            self._tries += 1
            if self._tries < self._max_tries or not self._deliver_each():
                raise
        else:
            self._accepted(self._held)
        self._tries = 0

    def _deliver_each(self) -> bool:
        """Deliver one by one, after the whole batch failed too often. Returns False when the sink
        accepts none.

        A random sample comes first: while the sink is away, each entry may take until a timeout.
        """
        first = random.sample(self._held, min(_MAX_FAILURES_ALONE, len(self._held)))
        failed: list[tuple[Entry, str]] = []
        at_fault: list[tuple[Entry, str]] = []
        accepted: list[Entry] = []
        for entry in first + [entry for entry in self._held if entry not in first]:
            try:
                self._sink.write([entry.line])
            except Exception as error:  # noqa: BLE001
                failed.append((entry, type(error).__name__))
                if len(failed) >= _MAX_FAILURES_ALONE and not accepted:
                    return False
            else:
                accepted.append(entry)
                # Entries that failed before this success met a sink that works. Those that fail
                # after the last success may have met a sink that is away: they are tried again.
                at_fault, failed = at_fault + failed, []
        self._accepted(accepted)
        for entry, reason in at_fault:
            self._dead_letter(entry, reason)
        return bool(accepted)

    def _accepted(self, entries: Sequence[Entry]) -> None:
        ids = {entry.id for entry in entries}
        self._held = [entry for entry in self._held if entry.id not in ids]
        self._done.extend(sorted(ids))
        self.delivered += len(ids)

    def _dead_letter(self, entry: Entry, reason: str) -> None:
        self._dead.keep([entry.line], reason)
        self._held = [each for each in self._held if each.id != entry.id]
        self._done.append(entry.id)

    def _release(self) -> None:
        """Reset the delivery count of what is held: deliveries to a sink that was away do not count
        against an entry."""
        self._group.hand_back([entry.id for entry in self._held])

    def _acknowledge(self) -> None:
        self._group.acknowledge(self._done)
        self._done.clear()


def open_dispatcher(
    settings: Settings,
    to: str,
    *,
    path: str | None,
    group: str,
    consumer: str,
    max_tries: int,
    claim_idle: float,
) -> Dispatcher:
    """`to` is ``file``, which needs `path`, or the name of a remote sink."""
    source = ConsumerGroup(settings.redis_url, settings.sinks.event_stream, group, consumer)
    dead = StreamDeadLetters(source)
    if to == "file":
        (sink,) = from_event_log(
            path or "off",
            max_bytes=settings.events.log_max_bytes,
            backups=settings.events.log_backups,
        )
    else:
        sink = open_remote(to, sink_options(settings), dead)
    return Dispatcher(source, sink, dead, max_tries=max_tries, claim_idle=claim_idle)


def run_dispatcher(
    settings: Settings,
    to: str,
    *,
    path: str | None,
    group: str,
    consumer: str,
    max_tries: int,
    claim_idle: float,
    listener: tuple[str, int] | None,
) -> None:
    """Dispatch until SIGTERM; `listener` is the address of a status server, if there is one.

    Raises StatusServerError.
    """
    configure_log(settings)
    dispatcher = open_dispatcher(
        settings,
        to,
        path=path,
        group=group,
        consumer=consumer,
        max_tries=max_tries,
        claim_idle=claim_idle,
    )
    stop_at_signal(dispatcher.stop)
    if listener:
        StatusServer(*listener, dispatcher.metrics, lambda: dispatcher.trouble)
    _log.info(
        "dispatching the stream %s, group %s, to %s",
        settings.sinks.event_stream,
        group,
        _destination(settings, to, path),
    )
    dispatcher.run()


def _destination(settings: Settings, to: str, path: str | None) -> str:
    """For the log: of a URL only the host, because the rest may be a secret."""
    if to == "file":
        return f"the file {path}"
    if to == "cloudwatch":
        return f"the log group {settings.sinks.cloudwatch_log_group}"
    return urlsplit(settings.sinks.logging_url).netloc
