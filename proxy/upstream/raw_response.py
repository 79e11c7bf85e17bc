"""An upstream's response while it arrives, and the upload that may still be in progress.

:class:`RawResponse` is the ``raw`` of a ``requests.Response``. It reads what has arrived instead of
waiting for n bytes, and returns its connection to the pool when the message is complete.

Note: the upload runs in another greenlet. When the *client* fails in it, the upload must cut the
upstream connection and never complete the request. The cut wakes the reader, which raises the
client's error.
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

_READ_BYTES: Final = 64 * 1024


class BrokenResponse(requests.ConnectionError):
    """The upstream connected, then sent no valid response: cut off, garbage, too large a head."""

    connected = True


class Upload:
    """Sends a request with a large or streamed body from a greenlet of its own."""

    def __init__(
        self, sock: Socket, head: bytes, pieces: Iterable[bytes], *, chunked: bool
    ) -> None:
        self._sock = sock
        # Written by the greenlet, read by the reader of the response: how many pieces went out,
        # whether the upload waits for the client, whether all went out, and the client's error.
        self.progress = 0
        self.at_client = False
        self.done = False
        self.error: Exception | None = None
        self._greenlet = gevent.spawn(self._run, head, pieces, chunked)

    def _run(self, head: bytes, pieces: Iterable[bytes], chunked: bool) -> None:
        source = iter(pieces)
        # OSError: the upstream takes no more. If it has sent a response, that response counts. If
        # not, the reader finds the connection closed, or times out as it would have anyway.
        with contextlib.suppress(OSError):
            self._sock.sendall(head)
            while piece := self._pull(source):
                self._sock.sendall(b"%X\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                self.progress += 1
                turn_if_due()
            if self.error is not None:
                # The plain socket underneath: TLS would lose its state, and the reader would fail.
                self._sock._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]  # noqa: SLF001
                return
            if chunked:
                self._sock.sendall(b"0\r\n\r\n")
            self.done = True

    def _pull(self, source: Iterator[bytes]) -> bytes:
        """Return the next piece, or ``b""`` at the end and when the client fails.

        Empty pieces are skipped: as a chunk they would end the body.
        """
        self.at_client = True
        try:
            return next(filter(None, source), b"")
        except Exception as error:  # noqa: BLE001  (whatever the client's body raised)
            self.error = error
            return b""
        finally:
            self.at_client = False

    def stop(self) -> None:
        """Stop the upload, if it has not ended. The request on the wire stays incomplete."""
        self._greenlet.kill()


class RawResponse:
    """A response on one connection: :meth:`read_head`, then :meth:`read1` until ``b""``."""

    def __init__(self, pool: ConnectionPool, sock: Socket, method: str) -> None:
        self._pool = pool
        self._sock: Socket | None = sock
        self._plain = not isinstance(sock, gevent.ssl.SSLSocket)
        self._parser = ResponseParser(method)
        self.upload: Upload | None = None
        self.bytes_came = False
        # Set when the rest of the body is not valid HTTP.
        self._broken: BrokenResponse | None = None
        #: When the write of the request began: monotonic seconds, unix nanoseconds.
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
        """Whether the whole message has been parsed. Its last bytes may still be unread."""
        return self._parser.complete

    @property
    def ready(self) -> bool:
        """Whether :meth:`read1` would return without waiting."""
        return self._parser.complete or self._parser.has_body

    def begin(self, data: bytes) -> None:
        """Parse bytes that have been read already, then read on to the end of the head."""
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
        """Return what has arrived of the body, undecoded: at least one byte, ``b""`` at its end.

        ``amt`` and ``decode_content`` give it the signature of ``urllib3``'s method; ignored.
        Raises requests' ``ReadTimeout``, :class:`BrokenResponse`, or the upload's own error.
        """
        parser = self._parser
        while True:
            if parser.complete:
                self.close()  # before the bytes are taken: it may wait, and so be interrupted
                return parser.take_body()
            data = parser.take_body()
            if data:
                return data
            self._fill()

    def close(self) -> None:
        """Release the connection. Idempotent.

        The pool takes it back if the message is complete and the connection reusable. Otherwise it
        is closed.
        """
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._parser.reusable and (self.upload is None or self.upload.done):
            self._pool.release(sock)
            return
        try:
            if self.upload is not None:
                self.upload.stop()
        finally:  # `stop` waits, and so may be interrupted
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
                    # Data is rarely there yet, and a read in vain costs more than the wait. Where
                    # data always is there, the wait lets other greenlets run. TLS may hold bytes
                    # that the socket does not show.
                    self._pool.read_timeouts.wait(sock)
                data = sock.recv(_READ_BYTES)
            else:
                turn_if_due()  # nothing else here waits while both sides keep sending
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
            # What was parsed before is returned first; the next read raises.

    def _raise_upload_error(self) -> None:
        if self.upload is not None and self.upload.error is not None:
            raise self.upload.error


def _receive(sock: Socket, upload: Upload) -> bytes:
    while True:
        progress = upload.progress
        try:
            data: bytes = sock.recv(_READ_BYTES)
            return data
        except TimeoutError:
            # An upstream may be silent while it takes the upload, and while the client is slow to
            # send it.
            if upload.progress == progress and not upload.at_client:
                raise
