"""An upstream's answer while it is coming, and the upload that may still be going.

:class:`RawResponse` is the ``raw`` of a ``requests.Response``: it reads what has arrived instead of
waiting for n bytes, and gives its connection back the moment the message is complete. The thing to
get wrong: the upload runs in another greenlet, and when the *client* fails in it, the upstream
connection must be cut, never completed; the reader is woken by that cut and raises the client's
error.
"""

import contextlib
import socket
from collections.abc import Iterable, Iterator
from typing import Final

import gevent
import gevent.ssl
import requests

from proxy.runtime.yielding import turn_if_due
from proxy.upstream.http1_codec import HeaderPairs, InvalidResponse, ResponseParser
from proxy.upstream.pool import ConnectionPool, Socket

_READ_SIZE: Final = 64 * 1024


class BrokenResponse(requests.ConnectionError):
    """Connected, then no valid answer: cut off, garbage, too large a head."""

    connected = True


class Upload:
    """Sends a request with a large or streamed body from a greenlet of its own."""

    def __init__(
        self, sock: Socket, head: bytes, pieces: Iterable[bytes], *, chunked: bool
    ) -> None:
        self._sock = sock
        # Written by the greenlet, read by the reader of the answer: how often a piece went out,
        # whether it is the client who is waited for, whether all went out, and what the client's
        # side raised.
        self.progress = 0
        self.at_client = False
        self.done = False
        self.error: Exception | None = None
        self._greenlet = gevent.spawn(self._run, head, pieces, chunked)

    def _run(self, head: bytes, pieces: Iterable[bytes], chunked: bool) -> None:
        source = iter(pieces)
        # When the upstream takes no more: if it has answered, that answer counts; if not, the
        # reader finds the connection closed, or times out as it would have anyway.
        with contextlib.suppress(OSError):
            self._sock.sendall(head)
            while piece := self._pull(source):
                self._sock.sendall(b"%X\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                self.progress += 1
                turn_if_due()
            if self.error is not None:
                # The plain socket beneath: TLS would forget its state, and the reader stumble.
                self._sock._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]  # noqa: SLF001
                return
            if chunked:
                self._sock.sendall(b"0\r\n\r\n")
            self.done = True

    def _pull(self, source: Iterator[bytes]) -> bytes:
        """The next piece; ``b""`` at the end, and when the client's side fails.

        Empty ones are left out: as a chunk they would end the body.
        """
        self.at_client = True
        try:
            return next(filter(None, source), b"")
        except Exception as error:  # noqa: BLE001  (whatever the client's side raised)
            self.error = error
            return b""
        finally:
            self.at_client = False

    def stop(self) -> None:
        """End the sending, if it has not ended. Nothing is completed on the wire."""
        self._greenlet.kill()


class RawResponse:
    """Status, reason and header lines after :meth:`read_head`; then :meth:`read1` until ``b""``."""

    def __init__(self, pool: ConnectionPool, sock: Socket, method: str) -> None:
        self._pool = pool
        self._sock: Socket | None = sock
        self._plain = not isinstance(sock, gevent.ssl.SSLSocket)
        self._parser = ResponseParser(method)
        self.upload: Upload | None = None
        self.bytes_came = False
        # Set when the rest of the body turned out to be no HTTP.
        self._broken: BrokenResponse | None = None
        #: Just before the request was written: monotonic seconds, unix nanoseconds.
        self.write_started = 0.0
        self.write_started_ns = 0

    @property
    def status(self) -> int:
        return self._parser.status

    @property
    def reason(self) -> str:
        return self._parser.reason

    @property
    def headers(self) -> HeaderPairs:
        return self._parser.headers

    @property
    def complete(self) -> bool:
        """Whether the whole message has been parsed (its last bytes may still be to be read)."""
        return self._parser.complete

    @property
    def ready(self) -> bool:
        """Whether :meth:`read1` need not wait."""
        return self._parser.complete or self._parser.has_body

    def begin(self, data: bytes) -> None:
        """Take bytes that have been read already, then read on to the end of the head."""
        self.bytes_came = True
        try:
            self._parser.feed_bytes(data)
        except InvalidResponse as error:
            raise BrokenResponse(str(error)) from error
        self.read_head()

    def read_head(self) -> None:
        parser = self._parser
        while not parser.head_complete:
            self._fill()

    def read1(self, amt: int = -1, decode_content: bool = False) -> bytes:
        """What has arrived of the body, undecoded, at least one byte; ``b""`` at its end.

        ``amt`` and ``decode_content`` are there for the shape of ``urllib3``'s method and ignored.
        Raises requests' ``ReadTimeout``, :class:`BrokenResponse`, or the upload's own error.
        """
        parser = self._parser
        while True:
            if parser.complete:
                self.close()  # which may wait, and so be interrupted: before the bytes are taken
                return parser.take_body()
            data = parser.take_body()
            if data:
                return data
            self._fill()

    def close(self) -> None:
        """Idempotent. The connection goes back if the message is complete and it is fit for
        another; else it is dropped."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._parser.reusable and (self.upload is None or self.upload.done):
            self._pool.release(sock)
            return
        try:
            if self.upload is not None:
                self.upload.stop()
        finally:  # that waits, and so may be interrupted
            sock.close()

    release_conn = close

    def _fill(self) -> None:
        """Read once and parse."""
        sock = self._sock
        if self._broken is not None:
            raise self._broken
        if sock is None:
            raise BrokenResponse("the connection is closed")
        try:
            upload = self.upload
            if upload is None:
                if self._plain or not sock.pending():  # type: ignore[attr-defined]
                    # Hardly ever is something there yet, and trying in vain costs more than
                    # waiting; and where something always is, the others get their turn. TLS may
                    # hold bytes that no socket shows.
                    self._pool.patience.wait(sock)
                data = sock.recv(_READ_SIZE)
            else:
                turn_if_due()  # nothing else waits, while both have always something to say
                data = _receive(sock, upload)
        except OSError as error:
            self._raise_upload_error()
            if isinstance(error, TimeoutError):
                raise requests.ReadTimeout("it was silent for too long") from error
            if isinstance(error, ConnectionError):
                raise BrokenResponse("it reset the connection") from error
            raise BrokenResponse(error.strerror or str(error)) from error
        if data:
            self.bytes_came = True
        else:
            self._raise_upload_error()
        try:
            self._parser.feed_bytes(data)
        except InvalidResponse as error:
            self._broken = BrokenResponse(str(error))
            if not self._parser.head_complete:
                raise self._broken from error
            # What was parsed before the nonsense is handed out first; the next read raises.

    def _raise_upload_error(self) -> None:
        if self.upload is not None and self.upload.error is not None:
            raise self.upload.error


def _receive(sock: Socket, upload: Upload) -> bytes:
    while True:
        progress = upload.progress
        try:
            data: bytes = sock.recv(_READ_SIZE)
            return data
        except TimeoutError:
            # An upstream need not speak while it is still listening, nor while there is nothing
            # to listen to because the client is slow.
            if upload.progress == progress and not upload.at_client:
                raise
