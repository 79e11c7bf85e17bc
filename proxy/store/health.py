"""The health of the database and its schema, checked in the background and shown by ``/ready``.

A node is ready from the first good check on, and stays ready when the database fails later: its
cached tokens still work, and taking every node out of rotation would turn the failure into an
outage.
"""

import logging
from collections.abc import Callable
from typing import Final

from proxy.core.errors import ProxyError, SchemaOutdated, StoreError
from proxy.runtime.periodic import PeriodicTask
from proxy.store.dialects import ReadOnly

_log = logging.getLogger(__name__)

_UNTIL_FIRST: Final = 1.0
_INTERVAL: Final = 5.0
_WRITES_FAIL: Final = "writes fail"
_READ_ONLY: Final = "writes fail: the server is read-only"
#: Good checks between two counts of the stored keys: about a minute.
_KEYS_EVERY: Final = 12


class DatabaseHealth:
    """Checks the database in a greenlet of its own. Reading its attributes costs nothing."""

    def __init__(
        self,
        check: Callable[[], None],
        read_keys: Callable[[], str] = lambda: "",
        check_writes: Callable[[], None] = lambda: None,
    ) -> None:
        """``check`` raises on a fault; the message of a ProxyError says which. ``read_keys`` is
        called after a good check and returns what is wrong with the stored keys, or ""; it may also
        raise. ``check_writes`` raises while the database responds and takes no writes."""
        self._check_database = check
        self._read_keys = read_keys
        self._check_writes = check_writes
        # Good checks until the keys are checked again.
        self._keys_due = 0
        self._task = PeriodicTask(
            self.check,
            lambda: _INTERVAL if self.ready and not self.away else _UNTIL_FIRST,
            failure="database: a health check failed",
            log=_log,
            first_pause=lambda: 0.0,
        )
        #: Whether a check has ever succeeded in this process; the result of the last one.
        self.ready = False
        self.state = "not checked yet"
        #: Whether the last check got no response.
        self.away = False
        #: What is wrong with the stored upstream keys, or "" while no fault is known.
        self.keys = ""
        #: Why the database takes no writes, or "" if it does or that is not known.
        self.writes = ""

    def start(self) -> None:
        self._task.start()

    def close(self) -> None:
        self._task.kill()

    def hurry(self) -> None:
        """Requests an early check, after a query got no response. Does not wait."""
        self._task.wake()

    def check(self) -> None:
        """Checks once."""
        before = self.state
        try:
            self._check_database()
        except Exception as error:  # noqa: BLE001  (a defect must not end the checks)
            # ``/ready`` is open to all: it shows only messages worded for clients.
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
            self._update_keys()
            self._update_writes()

    def _update_writes(self) -> None:
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

    def _update_keys(self) -> None:
        """Checks the keys at the start and then rarely, because they are counted row by row. While
        some are unreadable, they are checked every time."""
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
