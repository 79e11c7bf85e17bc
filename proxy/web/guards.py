"""Who may enter where. Each guard is a function on a request's facts that raises or returns.

``web/__init__.py`` says which blueprint stands behind which.
"""

import hmac
from collections.abc import Sequence

import flask

from proxy.auth.authenticator import bearer
from proxy.errors import ClientError


class ManagementGuard:
    """Lets in who knows one of ``tokens`` (two while one is being rotated)."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def __call__(self) -> None:
        """A Flask ``before_request`` function. Raises ClientError ``invalid_management_token``."""
        given = (bearer(flask.request.headers.get("Authorization")) or "").encode()
        # All of them are compared, in constant time: neither which one matched nor how much of it
        # may show in the time this takes.
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        if not any(matches):
            raise ClientError(
                code="invalid_management_token",
                headers=[("WWW-Authenticate", 'Bearer realm="openai-proxy management"')],
            )
