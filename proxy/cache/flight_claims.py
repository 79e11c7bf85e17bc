"""The claims of the workers of one node: a table in a mapped file, and a Unix socket per worker.

A row names the worker that sends the request of a key. The others connect to that worker's socket
(:mod:`proxy.cache.flight_socket`). A worker that has ended refuses the connection at once, and its
claim is taken from it; that shows the truth where the pid of another container would not. The claim
of a worker that has stopped ends with its lease.

Nothing is opened before the first request that may be shared: a worker without such projects has no
table, no socket and no greenlet.

Layout, behind the header of :mod:`proxy.runtime.mapped_file`, one row of 32 bytes per claim::

    u64   hash of the key
    u64   worker, which its socket is named after
    u64   number of the claim in that worker
    f64   end of the lease, seconds since the machine's start

Note: the whole key goes to the owner, which looks it up. A collision of hashes shares no response.
"""

import contextlib
import logging
import secrets
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

from proxy.cache.claims import LEASE_SECONDS, JoinHere
from proxy.cache.fetched import Fetched
from proxy.cache.flight_socket import FlightServer, OwnerGone, follow, is_alive
from proxy.cache.key import CacheKey
from proxy.core.errors import LimiterError
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.mapped_file import HEADER_SIZE, MappedFile, since_boot
from proxy.runtime.periodic import PeriodicTask

#: A power of two: flights of a node at once, and some room. The file takes 128 KiB for them.
_ROWS: Final = 4096
#: Rows in which the claim of a key may be, from the one of its hash on.
_WINDOW: Final = 16
_ROW_WORDS: Final = 4
_HEADER_WORDS: Final = HEADER_SIZE // 8
_TABLE: Final = "flights-1"
_SOCKET: Final = "flights-{:016x}.sock"
_log = logging.getLogger(__name__)


class NodeClaims:
    """The claims of one worker, and its view of the others'.

    `directory` is the same for all workers of the node; it is made, for its owner only.
    """

    def __init__(
        self,
        directory: Path,
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self._directory = directory
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._table = MappedFile(directory / _TABLE, b"proxy flights 1", _ROWS * _ROW_WORDS * 8)
        self._join: JoinHere = lambda _: None
        self._worker = 0
        self._numbers = count(1)
        self._server: FlightServer | None = None
        self._is_closed = False
        #: Number of a claim → the hash of its key.
        self._claims: dict[int, int] = {}
        self._renewal = PeriodicTask(
            self._renew_all,
            lambda: self._lease_seconds / 3 if self._claims else None,
            failure="flights: the claims of this node could not be renewed",
            log=_log,
        )
        self._log = FailureLog(
            _log.log, "flights", "cannot be shared between the workers of this node"
        )

    #: See :class:`proxy.cache.claims.Claims`.
    streams = True

    def serve(self, join: JoinHere) -> None:
        self._join = join

    def take(self, key: CacheKey) -> "NodeClaim | FlightElsewhere | None":
        if self._is_closed:
            return None
        try:
            if self._server is None:
                self._start()
            with self._table.locked():
                taken = self._take(key)
        except (OSError, LimiterError) as error:
            self._log.failed(error)
            return None
        self._log.worked()
        return taken

    def find(self, key: CacheKey) -> "FlightElsewhere | None":
        if self._is_closed:
            return None
        try:
            with self._table.locked():
                hashed = self._hash(key)
                at = self._row(hashed)
                return None if at is None else self._elsewhere(key, hashed, at)
        except LimiterError as error:
            self._log.failed(error)
            return None

    def close(self) -> None:
        for number in list(self._claims):
            self.release(number)
        self._is_closed = True
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._renewal.kill()
        self._table.close()

    def release(self, number: int) -> None:
        """Free the row of a claim. Idempotent. Where that fails its lease ends."""
        hashed = self._claims.pop(number, None)
        if hashed is not None:
            self._free(hashed, self._worker, number)

    def take_away(self, hashed: int, worker: int, number: int) -> None:
        """Free the row of another worker's claim, which has ended with its worker."""
        self._free(hashed, worker, number)

    def socket_of(self, worker: int) -> Path:
        return self._directory / _SOCKET.format(worker)

    def _take(self, key: CacheKey) -> "NodeClaim | FlightElsewhere | None":
        hashed = self._hash(key)
        at = self._row(hashed)
        if at is not None:
            elsewhere = self._elsewhere(key, hashed, at)
            if elsewhere is not None:
                return elsewhere
        else:
            at = self._free_row(hashed)
            if at is None:
                return None
        number = next(self._numbers)
        words, doubles = self._table.words, self._table.doubles
        # A process that is killed between the writes leaves a row without a lease.
        doubles[at + 3] = 0.0
        words[at], words[at + 1], words[at + 2] = hashed, self._worker, number
        doubles[at + 3] = self._clock() + self._lease_seconds
        self._claims[number] = hashed
        self._renewal.start()
        return NodeClaim(self, number)

    def _elsewhere(self, key: CacheKey, hashed: int, at: int) -> "FlightElsewhere | None":
        worker, number = self._table.words[at + 1 : at + 3]
        # This worker's own claim of a key for which it has no flight is left over.
        if worker == self._worker:
            return None
        return FlightElsewhere(self, key, hashed, worker, number)

    def _free(self, hashed: int, worker: int, number: int) -> None:
        if self._is_closed:
            return
        with contextlib.suppress(LimiterError), self._table.locked():
            self._set_lease(hashed, worker, number, 0.0)

    def _renew_all(self) -> None:
        with contextlib.suppress(LimiterError), self._table.locked():
            until = self._clock() + self._lease_seconds
            for number, hashed in self._claims.items():
                self._set_lease(hashed, self._worker, number, until)

    def _set_lease(self, hashed: int, worker: int, number: int, until: float) -> None:
        """Set the end of a claim's lease, if the key's row is still that claim's."""
        at = self._row(hashed)
        if at is not None and tuple(self._table.words[at + 1 : at + 3]) == (worker, number):
            self._table.doubles[at + 3] = until

    def _hash(self, key: CacheKey) -> int:
        return self._table.hash_of(f"{key.scope}:{key.digest.hex()}")

    def _window(self, hashed: int) -> list[int]:
        return [_HEADER_WORDS + _ROW_WORDS * ((hashed + step) % _ROWS) for step in range(_WINDOW)]

    def _row(self, hashed: int) -> int | None:
        """Return the row of the key's claim, if it holds."""
        words = self._table.words
        for at in self._window(hashed):
            if words[at] == hashed and self._holds(at):
                return at
        return None

    def _free_row(self, hashed: int) -> int | None:
        return next((at for at in self._window(hashed) if not self._holds(at)), None)

    def _holds(self, at: int) -> bool:
        """Return whether the row has a lease. One that ends too late is of before a restart."""
        left = self._table.doubles[at + 3] - self._clock()
        return 0 < left <= self._lease_seconds

    def _start(self) -> None:
        """Listen for followers, under a new name. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._directory.glob(_SOCKET.replace("{:016x}", "*")):
            if not is_alive(left):
                left.unlink(missing_ok=True)
        self._worker = secrets.randbits(63) or 1
        server = FlightServer(self.socket_of(self._worker), lambda key: self._join(key))
        server.start()
        self._server = server


class NodeClaim:
    """A claim of this worker."""

    __slots__ = ("_claims", "_number")

    def __init__(self, claims: NodeClaims, number: int) -> None:
        self._claims = claims
        self._number = number

    def release(self) -> None:
        self._claims.release(self._number)


class FlightElsewhere:
    """The flight of a key in another worker of the node."""

    __slots__ = ("_claims", "_hashed", "_key", "_number", "_worker")

    def __init__(
        self, claims: NodeClaims, key: CacheKey, hashed: int, worker: int, number: int
    ) -> None:
        self._claims = claims
        self._key = key
        self._hashed = hashed
        self._worker = worker
        self._number = number

    def fetch(self) -> Fetched:
        """Follow it. Raises NoResponse; the claim of a worker that has ended is free then."""
        try:
            return follow(self._claims.socket_of(self._worker), self._key)
        except OwnerGone:
            with contextlib.suppress(OSError):
                self._claims.take_away(self._hashed, self._worker, self._number)
            raise
