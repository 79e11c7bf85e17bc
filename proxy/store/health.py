"""Is the database there, and is its schema ours? Asked in the background, told to ``/ready``.

A node is ready from the first good check on, and stays so when the database goes away later: its
cached tokens still work, and taking every node out of rotation would make an outage of it.
"""

import logging
from collections.abc import Callable
from typing import Final

import gevent

from proxy.errors import ProxyError

_log = logging.getLogger(__name__)

_UNTIL_FIRST: Final = 1.0
_INTERVAL: Final = 5.0


class DatabaseHealth:
    """``check`` raises; the message of a ProxyError says what is wrong."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._greenlet: gevent.Greenlet[..., None] | None = None
        #: Whether a check has ever succeeded in this process; what the last one said.
        self.ready = False
        self.state = "not checked yet"

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()

    def look(self) -> None:
        """Check once."""
        before = self.state
        try:
            self._check()
        except Exception as error:  # noqa: BLE001  (a defect must not end the checks)
            # ``/ready`` is open to all: only what was worded for clients is said there.
            self.state = (str(error) if isinstance(error, ProxyError) else "") or "unavailable"
            if self.state != before:
                _log.error("database: %s (%r)", self.state, error.__cause__ or error)
        else:
            self.state = "ok"
            self.ready = True
            if before != "ok":
                _log.info("database: ok")

    def _run(self) -> None:
        while True:
            self.look()
            gevent.sleep(_INTERVAL if self.ready else _UNTIL_FIRST)
