"""Cross-origin requests from browsers to ``/v1``, when ``CORS_ALLOWED_ORIGINS`` is set.

While it is empty nothing here does anything: ``OPTIONS`` and ``Access-Control-*`` are then the
upstream's own. Once it is set, preflights end here (they carry no token, by specification) and the
upstream's ``Access-Control-*`` lines are replaced by the proxy's.
"""

from collections.abc import Callable, Sequence

from proxy.policy.globs import HostGlobs

Headers = list[tuple[str, str]]

#: Longer ones are no origins (RFC 1035: a name has 253 characters).
_MAX_ORIGIN_CHARS = 300
_MAX_AGE_SECONDS = "86400"
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class Cors:
    """``allowed`` are ``*``, exact origins, or patterns in which ``*`` is one host-name run."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self.enabled = bool(allowed)
        self._any = "*" in allowed
        self._patterns = HostGlobs(origin.lower() for origin in allowed)

    def allows(self, origin: str) -> bool:
        return self._any or (
            len(origin) <= _MAX_ORIGIN_CHARS and self._patterns.match(origin.lower())
        )

    def preflight(self, header: Callable[[str], str | None]) -> Headers | None:
        """Of the 204 to an ``OPTIONS`` with these request headers; None: it is no preflight (Fetch
        standard, CORS-preflight), or none that the proxy answers. ``header`` takes names in upper
        case.

        An origin that is not allowed gets no permission, and no error either.
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
            ("Access-Control-Allow-Headers", asked or "Authorization, Content-Type"),
            ("Access-Control-Max-Age", _MAX_AGE_SECONDS),
            vary,
        ]

    def response_headers(self, origin: str | None) -> Headers:
        """The proxy's own headers on every other ``/v1`` response."""
        if not self.enabled:
            return []
        headers = [] if self._any else [("Vary", "Origin")]
        if origin and self.allows(origin):
            headers.append(("Access-Control-Allow-Origin", "*" if self._any else origin))
            headers.append(("Access-Control-Expose-Headers", "*"))
        return headers

    def replaced(self, headers: Headers) -> Headers:
        """``headers`` of the upstream without its own ``Access-Control-*``."""
        if not self.enabled:
            return headers
        return [item for item in headers if not item[0].lower().startswith("access-control-")]
