"""From a Redis stream to one sink: what ``manage.py events dispatch`` runs.

Any number of dispatchers in one group share the entries; each group gets them all. An entry is
acknowledged when the sink has taken it, so that one that was in the hands of a killed dispatcher
comes again, here or elsewhere.

The thing to get wrong: an event that no sink takes and a sink that is away look the same. An entry
goes to the dead-letter stream only when others got through beside it, or when it was given out so
often that it must be what kills its dispatchers.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from proxy.events.sinks import from_event_log, open_remote
from proxy.events.sinks.base import Sink
from proxy.runtime.backoff import Backoff
from proxy.settings.settings import Settings
from proxy.shipper.redis_group import ConsumerGroup, Entry, StreamDeadLetters
from proxy.wiring.sinks import sink_options

_log = logging.getLogger(__name__)

_BATCH: Final = 500
_WAIT: Final = 1.0
#: Entries tried alone, one after the other and in vain, before the sink is taken to be away.
_ENOUGH: Final = 3
_FAILS: Final = {
    "Redis": "Redis does not answer, waiting for it: %s",
    "the sink": "the sink fails, its events are kept: %s",
}


class Dispatcher:
    """Runs on the thread that calls :meth:`run`; :meth:`stop` may be called from any other."""

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
        """``claim_idle``: seconds after which what another consumer holds is taken over."""
        self._group = group
        self._sink = sink
        self._dead = dead
        self._max_tries = max_tries
        self._claim_idle = claim_idle
        self._backoff = backoff or Backoff()
        self._stopping = threading.Event()
        # Taken from the stream and not taken by the sink yet, oldest first.
        self._held: list[Entry] = []
        # Taken by the sink, and Redis does not know yet.
        self._done: list[str] = []
        self._tries = 0
        self._next_claim = 0.0
        # Own pending is read once only: every reading counts as a delivery.
        self._recovered = False
        self._recovered_to = "0"
        #: What went wrong last; None while everything goes well.
        self.trouble: str | None = "not connected yet"
        self.delivered = 0
        self.errors = 0
        # Who fails, as the log knows it.
        self._told: str | None = None

    def metrics(self) -> str:
        """Prometheus exposition; the lag is asked for, and left out when there is no answer."""
        figures: list[tuple[str, str, float | None]] = [
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
            for name, kind, value in figures
            if value is not None
        )

    def _lag(self) -> int | None:
        try:
            return self._group.lag()
        except Exception:  # noqa: BLE001
            return None

    def stop(self) -> None:
        """Ends :meth:`run` after the write that it may be in."""
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            well = self._tried("Redis", self._fetch) and self._tried("the sink", self._deliver)
            well = self._tried("Redis", self._acknowledge) and well
            if well:
                self._note_success()
            else:
                self._stopping.wait(self._backoff.pause())
        self._tried("Redis", self._acknowledge)
        self._tried("Redis", self._hand_back)
        self._sink.close()
        self._group.close()

    def _tried(self, what: str, step: Callable[[], None]) -> bool:
        try:
            step()
        except Exception as error:  # noqa: BLE001
            if self._told != what:
                _log.error(_FAILS[what], error)
            self._told = what
            self.trouble = f"{what}: {type(error).__name__}"
            self.errors += 1
            return False
        return True

    def _note_success(self) -> None:
        if self.trouble is not None:
            again = f", {self._told} works again" if self._told else ""
            _log.info("events are dispatched%s", again)
        self.trouble = self._told = None
        self._backoff.reset()

    def _fetch(self) -> None:
        """Fill up what is held: own pending first, then a dead consumer's, then new entries."""
        if self.trouble is not None:
            self._group.create()  # somebody may have emptied Redis
        if not self._recovered and self._room:
            before = self._group.pending(self._room, self._recovered_to)
            self._hold(before)
            self._recovered = not before
            self._recovered_to = before[-1].id if before else self._recovered_to
        self._group.hold([entry.id for entry in self._held])
        if time.monotonic() >= self._next_claim and self._room:
            claimed = self._group.claim(self._room, self._claim_idle)
            self._hold(claimed)
            if len(claimed) == 0:
                self._next_claim = time.monotonic() + self._claim_idle / 4
        if self._recovered and self._room:
            # Also beside what fails: only if others get through is it to blame itself.
            self._hold(self._group.new(self._room, 0 if self._held else _WAIT))

    @property
    def _room(self) -> int:
        return _BATCH - len(self._held)

    def _hold(self, entries: Sequence[Entry]) -> None:
        """Take ``entries`` in hand, without those that killed whoever had them."""
        known = {entry.id for entry in self._held} | set(self._done)
        for entry in entries:
            if entry.id in known:
                continue
            if entry.deliveries > self._max_tries:
                self._dead_letter(entry, f"given out {entry.deliveries} times")
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
            self._taken(self._held)
        self._tries = 0

    def _deliver_each(self) -> bool:
        """One by one, when all together failed too often; False when the sink takes none.

        Some at random come first: if the sink is away, each of them may take until a timeout.
        """
        first = random.sample(self._held, min(_ENOUGH, len(self._held)))
        failed: list[tuple[Entry, str]] = []
        to_blame: list[tuple[Entry, str]] = []
        taken: list[Entry] = []
        for entry in first + [entry for entry in self._held if entry not in first]:
            try:
                self._sink.write([entry.line])
            except Exception as error:  # noqa: BLE001
                failed.append((entry, type(error).__name__))
                if len(failed) >= _ENOUGH and not taken:
                    return False
            else:
                taken.append(entry)
                # The sink was there before and after it. Those that failed since may have met a
                # sink that has gone away: they are tried again.
                to_blame, failed = to_blame + failed, []
        self._taken(taken)
        for entry, reason in to_blame:
            self._dead_letter(entry, reason)
        return bool(taken)

    def _taken(self, entries: Sequence[Entry]) -> None:
        ids = {entry.id for entry in entries}
        self._held = [entry for entry in self._held if entry.id not in ids]
        self._done.extend(sorted(ids))
        self.delivered += len(ids)

    def _dead_letter(self, entry: Entry, reason: str) -> None:
        self._dead.keep([entry.line], reason)
        self._held = [each for each in self._held if each.id != entry.id]
        self._done.append(entry.id)

    def _hand_back(self) -> None:
        """What is held has killed nobody, however often it was given out while the sink is away."""
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
    """``to``: ``file``, for which ``path`` is needed, or the name of a remote sink."""
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
