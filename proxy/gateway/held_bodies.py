"""Room for request bodies that are held whole in memory, for all requests of a worker together.

The last fifth is for small bodies, so that a few large ones, half of which never come, do not keep
every other request out.
"""

from typing import Final

from proxy.core.errors import Overloaded
from proxy.gateway.request import ClientRequestBody

#: Of the room: kept for small bodies.
_RESERVE: Final = 0.2
#: Of what is left of the room a body may take this part, and is small then.
_SMALL: Final = 1 / 16


class HeldBodies:
    """One per worker. ``most``: bytes."""

    __slots__ = ("_most", "_reserve", "free")

    def __init__(self, most: int) -> None:
        self._reserve = int(most * _RESERVE)
        self._most = most - self._reserve
        #: Bytes that may still be held, without the reserve; below zero when that is in use.
        self.free = self._most

    def read(self, body: ClientRequestBody, limit: int) -> bytes:
        """Returns the whole body. Its bytes are held until :meth:`release`, also when this raises.

        Raises as :meth:`ClientRequestBody.read_all`, and Overloaded: by the announced
        length before a byte is read, else by count.
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
        """Nothing of `body` is held any more. Idempotent."""
        self.free += body.held
        body.held = 0

    def _check(self, body: ClientRequestBody, count: int) -> None:
        """Whether ``count`` more bytes may be held although they do not fit."""
        alone = self.free + body.held >= self._most
        if not alone and body.held + count > (self.free + self._reserve) * _SMALL:
            raise Overloaded(
                "The server holds as many bytes of request bodies as it may. Try again."
            )
