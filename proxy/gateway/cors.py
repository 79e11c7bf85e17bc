"""Cross-origin requests from browsers to ``/v1``, when ``CORS_ALLOWED_ORIGINS`` is set.

Without that setting nothing here has an effect: ``OPTIONS`` and ``Access-Control-*`` come from the
upstream. With it, the proxy responds to preflights itself, which carry no token by specification,
and replaces the upstream's ``Access-Control-*`` lines with its own.
"""

from collections.abc import Callable, Sequence

from proxy.policy.globs import HostGlobs

Headers = list[tuple[str, str]]

#: No origin is longer (RFC 1035: a name has at most 253 characters).
_MAX_ORIGIN_CHARS = 300
_MAX_AGE_SECONDS = "86400"
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
#: Allowed where the preflight does not list any: all that an access token may stand in, and JSON.
_HEADERS = "Authorization, X-Api-Key, Api-Key, X-Goog-Api-Key, Content-Type"


class Cors:
    """The CORS rules. ``allowed`` has ``*``, origins, or patterns with ``*`` within a host name."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self.enabled = bool(allowed)
        self._any = "*" in allowed
        self._patterns = HostGlobs(origin.lower() for origin in allowed)

    def allows(self, origin: str) -> bool:
        return self._any or (
            len(origin) <= _MAX_ORIGIN_CHARS and self._patterns.match(origin.lower())
        )

    def preflight(self, header: Callable[[str], str | None]) -> Headers | None:
        """Return the headers of the 204 to a preflight (Fetch standard, CORS-preflight).

        Returns None for any other ``OPTIONS``, and without the setting. ``header`` takes names in
        upper case. An origin that is not allowed gets no permission, and no error either.
        """
        origin = header("ORIGIN")
        if not self.enabled or not origin or header("ACCESS-CONTROL-REQUEST-METHOD") is None:
            return None
        vary = ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
        if not self.allows(origin):
            return [vary]
        asked = header("ACCESS-CONTROL-REQUEST-HEADERS")
        return [
            ("Access-Control-Allow-Origin", "*" if self._any else origin),
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Allow-Headers", asked or _HEADERS),
            ("Access-Control-Max-Age", _MAX_AGE_SECONDS),
            vary,
        ]

    def response_headers(self, origin: str | None) -> Headers:
        """Return the proxy's own headers for every other ``/v1`` response."""
        if not self.enabled:
            return []
        headers = [] if self._any else [("Vary", "Origin")]
        if origin and self.allows(origin):
            headers.append(("Access-Control-Allow-Origin", "*" if self._any else origin))
            headers.append(("Access-Control-Expose-Headers", "*"))
        return headers

    def replaced(self, headers: Headers) -> Headers:
        """Return the upstream's ``headers`` without its own ``Access-Control-*``."""
        if not self.enabled:
            return headers
        return [item for item in headers if not item[0].lower().startswith("access-control-")]
