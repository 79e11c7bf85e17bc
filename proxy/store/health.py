"""Is the database there, and is its schema ours? Asked in the background, told to ``/ready``.

A node is ready from the first good check on, and stays so when the database goes away later: its
cached tokens still work, and taking every node out of rotation would make an outage of it.
"""

import logging
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event

from proxy.core.errors import ProxyError, SchemaOutdated, StoreError
from proxy.store.dialects import ReadOnly

_log = logging.getLogger(__name__)

_UNTIL_FIRST: Final = 1.0
_INTERVAL: Final = 5.0
_WRITES_FAIL: Final = "writes fail"
_READ_ONLY: Final = "writes fail: the server is read-only"
#: Good checks between two counts of the stored keys: a minute.
_KEYS_EVERY: Final = 12


class DatabaseHealth:
    """Checks in a greenlet of its own; reads of its attributes cost nothing."""

    def __init__(
        self,
        check: Callable[[], None],
        read_keys: Callable[[], str] = lambda: "",
        check_writes: Callable[[], None] = lambda: None,
    ) -> None:
        """``check`` raises; the message of a ProxyError says what is wrong. ``read_keys`` is asked
        after a good check: what is wrong with the stored keys, or "". It may raise too.
        ``check_writes`` raises while the database answers and takes no writes."""
        self._check = check
        self._read_keys = read_keys
        self._check_writes = check_writes
        # Good checks until the keys are looked at again.
        self._keys_due = 0
        self._soon = Event()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        #: Whether a check has ever succeeded in this process; what the last one said.
        self.ready = False
        self.state = "not checked yet"
        #: Whether the last check got no answer.
        self.away = False
        #: What is wrong with the stored upstream keys; "": nothing that is known of.
        self.keys = ""
        #: Why the database takes no writes, or "": it does, or that is not known.
        self.writes = ""

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()

    def hurry(self) -> None:
        """Somebody has met a database that does not answer: check soon. Does not wait."""
        self._soon.set()

    def look(self) -> None:
        """Check once."""
        before = self.state
        try:
            self._check()
        except Exception as error:  # noqa: BLE001  (a defect must not end the checks)
            # ``/ready`` is open to all: only what was worded for clients is said there.
            self.writes = ""
            self.away = isinstance(error, StoreError) and not isinstance(error, SchemaOutdated)
            self.state = (str(error) if isinstance(error, ProxyError) else "") or "unavailable"
            if self.state != before:
                _log.error("database: %s (%r)", self.state, error.__cause__ or error)
        else:
            self.state = "ok"
            self.away = False
            self.ready = True
            if before != "ok":
                _log.info("database: ok")
            self._look_at_keys()
            self._look_at_writes()

    def _look_at_writes(self) -> None:
        before = self.writes
        try:
            self._check_writes()
        except Exception as error:  # noqa: BLE001  (a defect must not end the checks)
            self.writes = _READ_ONLY if isinstance(error, ReadOnly) else _WRITES_FAIL
            if self.writes != before:
                _log.error("database: %s (%r)", self.writes, error.__cause__ or error)
        else:
            self.writes = ""
            if before:
                _log.info("database: writes work again")

    def _look_at_keys(self) -> None:
        """At the start, then seldom: they are counted row by row. While some are unreadable, with
        every check."""
        self._keys_due -= 1
        if self._keys_due > 0 and not self.keys:
            return
        try:
            found = self._read_keys()
        except Exception as error:  # noqa: BLE001  (the next check says more)
            _log.warning("keys: cannot be counted: %r", error.__cause__ or error)
            return
        self._keys_due = _KEYS_EVERY
        if found != self.keys:
            _log.log(logging.ERROR if found else logging.INFO, "keys: %s", found or "ok")
        self.keys = found

    def _run(self) -> None:
        while True:
            self.look()
            well = self.ready and not self.away
            self._soon.wait(_INTERVAL if well else _UNTIL_FIRST)
            self._soon.clear()
