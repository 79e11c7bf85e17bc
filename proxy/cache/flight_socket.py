"""Following a flight of another worker of the node, over a Unix socket.

A follower connects, names the cache key, and gets the response in frames. Its own worker reads them
in the pump of a flight, so that one connection serves all followers of a worker.

Frame: type (1 byte), length of the payload (u32, big endian), payload::

    J   key: 32 bytes of its digest, then its scope      follower, once
    O   joined; more frames follow                       owner, first
    N   there is no such flight                          owner, last
    .   nothing new: the owner is alive                  owner, every second
    H   head, JSON                                       owner, once
    C   chunk                                            owner
    L   last chunk of a complete response                owner, once
    E   end of a complete response                       owner, once
    T   what the response cost, JSON                     owner, last, behind L or E
    B   the response failed: error, JSON                 owner, last
    P   the response is private                          owner, last

`N` behind `O`: the owner has let its followers go before there was a head.

Note: a connection that ends before `L` or `E` is a response that was cut. It never looks complete.
"""

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import gevent
import orjson
from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer

from proxy.cache.claims import JoinHere
from proxy.cache.fetched import (
    UNKNOWN_COST,
    Cost,
    Fetched,
    FlightHead,
    NoResponse,
    NotShared,
)
from proxy.cache.flight import FlightReader
from proxy.cache.key import CacheKey
from proxy.core.errors import ClientError, ProxyError, ResponseBroken, UpstreamError

_FRAME: Final = struct.Struct(">cI")
_DIGEST_BYTES: Final = 32
#: A follower names its key in less. What an owner sends is as long as its chunks.
_MAX_REQUEST_BYTES: Final = 4096
#: `sockaddr_un` has room for 108 bytes with the final zero (unix(7)).
_MAX_PATH_BYTES: Final = 107
_BACKLOG: Final = 256
#: Followers of one worker; further ones are not accepted, and go their own way.
_MAX_FOLLOWERS: Final = 512
#: Seconds in which an owner must respond at all. One that is alive needs a millisecond.
_HELLO_SECONDS: Final = 5.0
#: Seconds between two signs of life, and how long a follower waits for one.
_ALIVE_SECONDS: Final = 1.0
_SILENCE_SECONDS: Final = 30.0
#: Seconds in which the owner knows the cost of a response, after its last byte.
_COST_SECONDS: Final = 5.0
#: Seconds for which an owner waits for a follower that does not read.
_SEND_SECONDS: Final = 120.0
_RECEIVED_BYTES: Final = 256 * 1024
_KINDS: Final[dict[str, type[ProxyError]]] = {"upstream": UpstreamError, "client": ClientError}


class OwnerGone(NoResponse):
    """There is no flight behind the claim: its worker has ended, or has no such flight."""


class FlightPrivate(NotShared):
    """The response cannot be shared."""


class OwnerSilent(NotShared):
    """The worker does not respond."""


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield a path of the same file that fits into a socket's address.

    Raises OSError where there is none: the directory is reached through the process's own
    descriptor, which needs `/proc`.
    """
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def is_alive(path: Path) -> bool:
    """Return whether a process listens on the socket file."""
    with socket.socket(socket.AF_UNIX) as probe, short_path(path) as address:
        probe.settimeout(_HELLO_SECONDS)
        try:
            probe.connect(address)
        except OSError as error:
            return error.errno not in {errno.ECONNREFUSED, errno.ENOENT}
    return True


class FlightServer:
    """Serves the flights of one worker to the followers in the node's other workers."""

    def __init__(self, path: Path, join: JoinHere) -> None:
        self._path = path
        self._join = join
        self._server: StreamServer | None = None
        self._pool = Pool(_MAX_FOLLOWERS)

    def start(self) -> None:
        """Listen. Raises OSError."""
        # The file appears under its name once it is listened on: others remove a socket that
        # refuses connections.
        made = self._path.with_name(f".{self._path.name}")
        listener = socket.socket(socket.AF_UNIX)
        try:
            with short_path(made) as address:
                listener.bind(address)
            made.chmod(0o600)
            listener.listen(_BACKLOG)
            made.replace(self._path)
        except BaseException:
            listener.close()
            made.unlink(missing_ok=True)
            raise
        self._server = StreamServer(listener, self._serve, spawn=self._pool)
        self._server.start()

    def close(self) -> None:
        """Idempotent. Followers are cut."""
        server, self._server = self._server, None
        if server is not None:
            self._path.unlink(missing_ok=True)
            server.stop(timeout=0)

    def _serve(self, sock: Any, _: object) -> None:
        try:
            sock.settimeout(_HELLO_SECONDS)
            kind, payload = _Frames(sock, _MAX_REQUEST_BYTES).next()
            if kind != b"J" or len(payload) < _DIGEST_BYTES:
                return
            sock.settimeout(_SEND_SECONDS)
            key = CacheKey(payload[_DIGEST_BYTES:].decode(), payload[:_DIGEST_BYTES])
            reader = self._join(key)
            if reader is None:
                sock.sendall(_frame(b"N"))
                return
            try:
                sock.sendall(_frame(b"O"))
                _send_flight(sock, reader)
            finally:
                reader.close()
            flight = reader.flight
            if flight.wait_until_over(_COST_SECONDS) and flight.complete:
                sock.sendall(_frame(b"T", orjson.dumps(flight.cost)))
        except (OSError, EOFError, ValueError):
            pass  # the follower has left, or is none
        finally:
            sock.close()


def _send_flight(sock: Any, reader: FlightReader) -> None:
    """Send all frames behind the first. Raises OSError when the follower has left."""
    try:
        while not reader.is_settled:
            if not reader.flight.wait(_ALIVE_SECONDS):
                sock.sendall(_frame(b"."))
        head = reader.head()
        if head is None:
            # Without a head nothing is known of the response: its request was refused, or has gone.
            sock.sendall(_frame(b"N" if reader.flight.head is None else b"P"))
            return
        sock.sendall(_frame(b"H", _head_json(head)))
        while True:
            chunk = reader.read_within(_ALIVE_SECONDS)
            if chunk is None:
                sock.sendall(_frame(b"."))
            elif not chunk:
                sock.sendall(_frame(b"E"))
                return
            elif reader.complete:
                sock.sendall(_frame(b"L", chunk))
                return
            else:
                sock.sendall(_frame(b"C", chunk))
    except ProxyError as error:
        sock.sendall(_frame(b"B", _error_json(error)))


def follow(path: Path, key: CacheKey) -> Fetched:
    """Follow the flight of a key in the worker that listens on the socket file.

    Waits for the head of the response. Raises NoResponse (in its kinds), or what the owner's
    request failed with.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(_HELLO_SECONDS)
        try:
            with short_path(path) as address:
                sock.connect(address)
            sock.sendall(_frame(b"J", key.digest + key.scope.encode()))
            frames = _Frames(sock)
            kind, _ = frames.next()
        except TimeoutError:
            raise OwnerSilent from None
        if kind != b"O":
            raise OwnerGone
        sock.settimeout(_SILENCE_SECONDS)
        kind, payload = frames.next_but_alive()
        if kind == b"H":
            return Fetched(
                _read_head(payload),
                FollowedSource(frames),
                close=sock.close,
                cost=partial(_read_cost, sock, frames),
            )
        if kind == b"P":
            raise FlightPrivate
        if kind == b"B":
            raise _read_error(payload)
        raise OwnerGone
    except TimeoutError:
        sock.close()
        raise OwnerSilent from None
    except (OSError, EOFError):
        # Before the head nothing was sent to any client, so another worker may begin.
        sock.close()
        raise OwnerGone from None
    except BaseException:
        sock.close()
        raise


def _read_cost(sock: Any, frames: "_Frames") -> Cost:
    """Return the cost of a response that has been read."""
    sock.settimeout(2 * _COST_SECONDS)
    try:
        kind, payload = frames.next_but_alive()
    except (OSError, EOFError):
        return UNKNOWN_COST
    if kind != b"T":
        return UNKNOWN_COST
    prompt, completion, model = orjson.loads(payload)
    return prompt, completion, model


class FollowedSource:
    """The body of a response that another worker reads: a :class:`proxy.upstream.body.Source`."""

    def __init__(self, frames: "_Frames") -> None:
        self._frames = frames
        self.complete = False

    @property
    def ready(self) -> bool:
        return self._frames.ready

    def read(self) -> bytes:
        """Return the next chunk, ``b""`` at the end. Raises UpstreamError."""
        try:
            kind, payload = self._frames.next_but_alive()
        except (OSError, EOFError) as error:
            raise ResponseBroken("The worker that read the response has ended.") from error
        if kind in {b"L", b"E"}:
            self.complete = True
        elif kind == b"B":
            raise _read_error(payload)
        elif kind != b"C":
            raise ResponseBroken("The worker that read the response has ended.")
        return payload

    def read_within(self, seconds: float) -> bytes | None:
        """As :meth:`read`; None when nothing arrived in that time."""
        with gevent.Timeout(seconds, False):  # type: ignore[arg-type]  # False: it ends silently
            return self.read()
        return None


class _Frames:
    """Reads frames. Raises EOFError at the end of the connection, OSError, and ValueError for a
    frame that is longer than `limit`."""

    def __init__(self, sock: Any, limit: int | None = None) -> None:
        self._receive: Callable[[int], bytes] = sock.recv
        self._limit = limit
        self._data = bytearray()

    @property
    def ready(self) -> bool:
        """Whether a frame has arrived that says something."""
        while (size := self._size()) is not None and len(self._data) >= size:
            if self._data[:1] != b".":
                return True
            del self._data[:size]
        return False

    def next(self) -> tuple[bytes, bytes]:
        """Return the type and the payload of the next frame."""
        while (size := self._size()) is None or len(self._data) < size:
            received = self._receive(_RECEIVED_BYTES)
            if not received:
                raise EOFError
            self._data += received
        frame = bytes(self._data[:size])
        del self._data[:size]
        return frame[:1], frame[_FRAME.size :]

    def next_but_alive(self) -> tuple[bytes, bytes]:
        """As :meth:`next`, without the signs of life."""
        while True:
            frame = self.next()
            if frame[0] != b".":
                return frame

    def _size(self) -> int | None:
        """Return the size of the frame that begins the data, once that is known."""
        if len(self._data) < _FRAME.size:
            return None
        _, length = _FRAME.unpack_from(self._data)
        if self._limit is not None and length > self._limit:
            raise ValueError("frame too long")
        return _FRAME.size + int(length)


def _frame(kind: bytes, payload: bytes = b"") -> bytes:
    return _FRAME.pack(kind, len(payload)) + payload


def _head_json(head: FlightHead) -> bytes:
    return orjson.dumps([head.status, head.reason, head.headers, head.provider, head.model])


def _read_head(payload: bytes) -> FlightHead:
    status, reason, lines, provider, model = orjson.loads(payload)
    return FlightHead(
        status=status,
        reason=reason,
        headers=[(name, value) for name, value in lines],
        shareable=True,
        provider=provider,
        model=model,
    )


def _error_json(error: ProxyError) -> bytes:
    kind = next((name for name, cls in _KINDS.items() if isinstance(error, cls)), "")
    return orjson.dumps([kind, error.code, str(error), error.retry_after, error.headers])


def _read_error(payload: bytes) -> ProxyError:
    kind, code, message, retry_after, headers = orjson.loads(payload)
    lines = [(name, value) for name, value in headers]
    return _KINDS.get(kind, ProxyError)(message, code=code, retry_after=retry_after, headers=lines)
