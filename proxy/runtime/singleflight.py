"""One call per key at a time: callers that come meanwhile wait for its result."""

import contextlib
from collections.abc import Callable
from typing import Generic, TypeVar

import gevent
from gevent.event import AsyncResult

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Calls `call(key)` at most once at a time for each key.

    All callers of a key get the result of that call, or its exception.

    Args:
        call: The work. It may wait, and it may raise.
        interrupted: Makes the exception that waiting callers get when the greenlet that runs the
            call is killed: the kill concerns that greenlet alone.
    """

    def __init__(self, call: Callable[[str], T], interrupted: Callable[[], Exception]) -> None:
        self._call = call
        self._interrupted = interrupted
        self._flights: dict[str, AsyncResult[T]] = {}

    def get(self, key: str) -> "AsyncResult[T] | None":
        """Return the flight of this key, or None."""
        return self._flights.get(key)

    def do(self, key: str) -> T:
        """Join the flight of this key, or make the call in this greenlet.

        Raises what the call raises.
        """
        flight = self._flights.get(key)
        return self.lead(key) if flight is None else flight.get()  # type: ignore[return-value]

    def lead(self, key: str) -> T:
        """Make the call in this greenlet, for all that join it. The key has no flight."""
        flight = self._flights[key] = AsyncResult()
        return self._run(key, flight)

    def spawn(self, key: str) -> "AsyncResult[T]":
        """Return the flight of this key, or a new one in a greenlet of its own."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = AsyncResult()
            gevent.spawn(self._run_quietly, key, flight)
        return flight

    def forget_all(self) -> None:
        """Let no later caller join a flight that is in progress. Its present callers still do."""
        self._flights.clear()

    def _run(self, key: str, flight: "AsyncResult[T]") -> T:
        try:
            value = self._call(key)
        except BaseException as error:
            self._finish(key, flight)
            flight.set_exception(error if isinstance(error, Exception) else self._interrupted())
            raise
        self._finish(key, flight)
        flight.set(value)
        return value

    def _run_quietly(self, key: str, flight: "AsyncResult[T]") -> None:
        """Report an exception to the waiting callers alone."""
        with contextlib.suppress(Exception):
            self._run(key, flight)

    def _finish(self, key: str, flight: "AsyncResult[T]") -> None:
        # `forget_all` may have made room for a newer flight.
        if self._flights.get(key) is flight:
            del self._flights[key]
