"""Memory for request bodies that are held whole, for all requests of a worker together.

The last fifth is for small bodies. Otherwise a few large bodies that never arrive completely could
keep out every other request.
"""

from typing import Final

from proxy.core.errors import Overloaded
from proxy.gateway.request import ClientRequestBody

#: The fraction of the room that is reserved for small bodies.
_RESERVE: Final = 0.2
#: A body is small if it takes at most this fraction of the room that is left.
_SMALL: Final = 1 / 16


class HeldBodies:
    """The room for held bodies. One per worker. Reads bodies into it and releases them."""

    __slots__ = ("_max_bytes", "_reserve", "free")

    def __init__(self, max_bytes: int) -> None:
        self._reserve = int(max_bytes * _RESERVE)
        self._max_bytes = max_bytes - self._reserve
        #: Bytes that may still be held, without the reserve. Negative while the reserve is in use.
        self.free = self._max_bytes

    def read(self, body: ClientRequestBody, limit: int) -> bytes:
        """Return the whole body. Its bytes are held until :meth:`release`, also when this raises.

        Raises as :meth:`ClientRequestBody.read_all`, and Overloaded: by the announced length before
        a byte is read, else by count.
        """
        length = body.length
        if length is not None:
            if length > self.free or length > limit:
                body.check_length(limit)
                self._check(body, length)
            self.free -= length
            body.held = length
            return body.read_all(limit)
        body.check_length(limit)
        data = bytearray()
        for piece in body:
            if len(piece) > self.free:
                self._check(body, len(piece))
            self.free -= len(piece)
            body.held += len(piece)
            data += piece
        return bytes(data)

    def release(self, body: ClientRequestBody) -> None:
        """Return the bytes of `body` to the room. Idempotent."""
        self.free += body.held
        body.held = 0

    def _check(self, body: ClientRequestBody, count: int) -> None:
        """Raise Overloaded unless ``count`` more bytes may use the reserve. A lone body may."""
        alone = self.free + body.held >= self._max_bytes
        if not alone and body.held + count > (self.free + self._reserve) * _SMALL:
            raise Overloaded(
                "The server holds as many bytes of request bodies as it may. Try again."
            )
