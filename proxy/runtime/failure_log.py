"""One log line when a component begins to fail, and one when it works again.

A component that is tried every second would otherwise fill the log during an outage.
"""

import logging
from collections.abc import Callable


class FailureLog:
    """Logs the first of a row of failures, and the success that ends the row.

    Args:
        log: Writes a line, as `logger.log` does: `log(level, text, exc_info=error or None)`.
        subject: The component's name, with which both lines begin.
        failure: What fails, and what happens meanwhile.
        recovery: What works again.
        level: The level of the failure. The recovery has the level WARNING, so that a log that
            shows a failure also shows its end.
    """

    def __init__(
        self,
        log: Callable[..., object],
        subject: str,
        failure: str,
        recovery: str = "works again",
        *,
        level: int = logging.WARNING,
    ) -> None:
        self._log = log
        self._failure = f"{subject}: {failure}"
        self._recovery = f"{subject}: {recovery}"
        self._level = level
        #: Whether the last try failed.
        self.failing = False

    def failed(self, error: BaseException, *, traceback: bool = False) -> bool:
        """Record a failure. Returns whether it is the first of its row, and so was logged.

        The line shows the cause of `error`, if it has one: the message of a ProxyError is worded
        for clients. `traceback` adds the traceback, for a defect.
        """
        if self.failing:
            return False
        self.failing = True
        cause = error.__cause__ or error
        text = f"{self._failure}: {type(cause).__name__}: {cause}"
        self._log(self._level, text, exc_info=error if traceback else None)
        return True

    def worked(self, detail: str = "") -> None:
        """Record a success. `detail` is appended to the line of a recovery."""
        if not self.failing:
            return
        self.failing = False
        text = f"{self._recovery}, {detail}" if detail else self._recovery
        self._log(logging.WARNING, text, exc_info=None)
