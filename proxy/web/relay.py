"""``/v1/*``: one WSGI callable from the bearer to the last byte.

It stands behind two doors: in front of Flask, for speed and for what Flask cannot route, and as the
view of the blueprint ``v1``, so that the URL map and the guards' table see it. The steps of one
request are called in order, on this page, and nothing else happens on the path.

The thing to get wrong: everything before the response head may still become an answer in the error
shape; everything after it can only break the connection.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import flask

from proxy.auth.authenticator import Principal
from proxy.errors import ProxyError
from proxy.events.event import UsageEvent
from proxy.providers.base import OutboundRequest
from proxy.relay.headers import downstream_headers, upstream_headers
from proxy.relay.relay import Relay
from proxy.relay.stream import Outcome, RelayStream
from proxy.relay.timing import Timing
from proxy.relay.watch import ClientGone, Drained, LiveRequests
from proxy.usage.meter import UsageMeter
from proxy.web.cors import Cors
from proxy.web.exchange import Exchange
from proxy.web.inbound import Inbound, check_path
from proxy.web.replies import Headers, error_reply

_log = logging.getLogger(__name__)

StartResponse = Callable[[str, Headers], Any]


class AccessCheck(Protocol):
    """The authenticator, as seen from here."""

    def authenticate(self, authorization: str | None) -> Principal: ...

    def admit(self, principal: Principal) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one worker takes: requests at once, bytes of any body, bytes of a buffered JSON body."""

    concurrent: int
    request_bytes: int
    json_bytes: int
    trusted_proxies: int


class RelayEndpoint:
    """The WSGI callable. ``draining`` is set once running answers have been cut at a stop."""

    def __init__(
        self,
        access: AccessCheck,
        relay: Relay,
        publish: Callable[[UsageEvent], None],
        live: LiveRequests,
        cors: Cors,
        bounds: Bounds,
    ) -> None:
        self._access = access
        self._relay = relay
        self._publish = publish
        self._live = live
        self._cors = cors
        self._bounds = bounds
        self.draining = False

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        inbound = Inbound(environ, self._bounds.trusted_proxies)
        if inbound.method == "OPTIONS":
            origin = inbound.header("ORIGIN")
            if self._cors.preflight(origin, inbound.header("ACCESS-CONTROL-REQUEST-METHOD")):
                return self._preflight(inbound, origin or "", start_response)
        exchange = Exchange(inbound, environ, self._publish)
        slot = None
        try:
            if self.draining:
                raise ProxyError(code="draining", retry_after=1)
            if len(self._live) >= self._bounds.concurrent:
                raise ProxyError(code="overloaded", retry_after=1)
            slot = self._live.enter()
            return self._serve(exchange, slot, start_response)
        except ProxyError as error:
            failure = error
        except Drained:
            failure = ProxyError(code="draining", retry_after=1)
        except ClientGone:
            self._leave(slot)
            exchange.end(499, Outcome.CLIENT_GONE)
            raise
        except Exception as error:  # noqa: BLE001  (a defect of ours: told as a 500)
            failure = ProxyError()
            failure.__cause__ = error
        except BaseException:
            # The worker is being killed: nobody is left to answer to.
            self._leave(slot)
            exchange.end(503, Outcome.ABORTED, "draining")
            raise
        self._leave(slot)
        return self._refuse(exchange, failure, start_response)

    def _serve(
        self, exchange: Exchange, slot: object, start_response: StartResponse
    ) -> Iterable[bytes]:
        inbound, timing = exchange.inbound, exchange.timing
        principal = self._access.authenticate(inbound.header("AUTHORIZATION"))
        timing.mark_authenticated()
        exchange.principal = principal
        check_path(inbound.path)
        outbound = self._outbound(inbound)
        self._access.admit(principal)

        exchange.watch_client()
        upstream = self._relay.handle(outbound, principal.upstream_key, timing)
        try:
            inbound.abandon_body()  # the answer came before the upload's end, if it has not ended
            content_type, content_encoding = _content(upstream.headers)
            meter = UsageMeter(content_type, content_encoding)

            def on_close(stream: RelayStream) -> None:
                self._leave(slot)
                exchange.end_stream(stream, upstream.status, meter, content_type)

            stream = RelayStream(
                upstream,
                timing,
                [meter],
                farewell=lambda cut: exchange.last_words(cut, meter),
                on_close=on_close,
            )
            start_response(
                f"{upstream.status} {upstream.reason}",
                [
                    *self._cors.replaced(downstream_headers(upstream.headers)),
                    *self._our_headers(inbound, timing),
                ],
            )
        except BaseException:
            upstream.close()
            raise
        return stream

    def _outbound(self, inbound: Inbound) -> OutboundRequest:
        """The request on its way out; JSON bodies are read here, others while they are sent."""
        body = inbound.body
        headers = upstream_headers(inbound.headers)
        target = inbound.target.encode("latin-1")
        if not body.exists:
            return OutboundRequest(inbound.method, target, headers, None)
        if _is_json(inbound.header("CONTENT-TYPE")):
            data = body.read_all(min(self._bounds.json_bytes, self._bounds.request_bytes))
            headers.append(("Content-Length", str(len(data))))
            return OutboundRequest(inbound.method, target, headers, data)
        body.check_length(self._bounds.request_bytes)
        if body.length is not None:
            headers.append(("Content-Length", str(body.length)))
            pieces = body if body.length else b""
            return OutboundRequest(inbound.method, target, headers, pieces)
        headers.append(("Transfer-Encoding", "chunked"))
        return OutboundRequest(inbound.method, target, headers, body, chunked=True)

    def _refuse(
        self, exchange: Exchange, error: ProxyError, start_response: StartResponse
    ) -> Iterable[bytes]:
        inbound = exchange.inbound
        inbound.abandon_body()
        status, headers, body = error_reply(error, self._our_headers(inbound, exchange.timing))
        if inbound.method == "HEAD":
            body = b""
        exchange.refused(error, len(body))
        if error.code == "internal_error":
            # Only now, when nothing can be thrown into this greenlet any more: logging may wait.
            _log.error("request failed", exc_info=error, extra={"request_id": inbound.request_id})
        start_response(status, headers)
        return [body] if body else []

    def _preflight(
        self, inbound: Inbound, origin: str, start_response: StartResponse
    ) -> Iterable[bytes]:
        asked_headers = inbound.header("ACCESS-CONTROL-REQUEST-HEADERS")
        inbound.abandon_body()
        headers = self._cors.preflight_headers(origin, asked_headers)
        start_response("204 No Content", [("X-Proxy-Request-ID", inbound.request_id), *headers])
        return []

    def _our_headers(self, inbound: Inbound, timing: Timing) -> Headers:
        return [
            ("X-Proxy-Request-ID", inbound.request_id),
            *timing.headers(),
            *self._cors.answer_headers(inbound.header("ORIGIN")),
        ]

    def _leave(self, slot: object) -> None:
        if slot is not None:
            self._live.leave(slot)


class RelayResponse(flask.Response):
    """A Flask response that is the relay itself.

    Werkzeug must not handle the stream: it would pull the first chunk before the head, rewrite
    header lines, and never close a stream whose first chunk fails.
    """

    def __init__(self, endpoint: RelayEndpoint) -> None:
        super().__init__()
        self._endpoint = endpoint

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        return self._endpoint(environ, start_response)


def create_blueprint(endpoint: RelayEndpoint) -> flask.Blueprint:
    """``v1``: every path below it, in the nine standard methods."""
    blueprint = flask.Blueprint("v1", __name__)
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]

    @blueprint.route("/", methods=methods, provide_automatic_options=False)
    @blueprint.route("/<path:path>", methods=methods, provide_automatic_options=False)
    def relay(path: str = "") -> RelayResponse:
        return RelayResponse(endpoint)

    return blueprint


def _is_json(content_type: str | None) -> bool:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _content(headers: Headers) -> tuple[str, str]:
    """Content type and encoding of an answer, ``""`` where it does not say."""
    content_type = content_encoding = ""
    for name, value in headers:
        lowered = name.lower()
        if lowered == "content-type":
            content_type = value
        elif lowered == "content-encoding":
            content_encoding = value
    return content_type, content_encoding
