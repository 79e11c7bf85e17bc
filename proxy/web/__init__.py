"""Every blueprint with its prefix and its guard, on one screen.

| blueprint | prefix             | guard                                           |
|-----------|--------------------|-------------------------------------------------|
| v1        | ``/v1``            | access token, checked by the gateway itself     |
| minting   | ``/v1/proxy/tokens`` | access token with ``can_mint``, checked by itself |
| projects  | ``/manage/projects`` | management token                              |
| tokens    | ``/manage/tokens`` | management token                                |
| usage     | ``/manage/usage``  | management token                                |
| audit     | ``/manage/audit``  | management token                                |
| cache     | ``/manage/cache``  | management token                                |
| cache_flush | ``/cache`` (DELETE) | management token                             |
| providers | ``/manage/providers``, ``/admin/providers`` | management token       |
| provider_keys | ``/manage/keys``, ``/admin/keys`` | management token             |
| mappings  | ``/manage/mappings``, ``/admin/mappings`` | management token         |
| routing_health | ``/manage/health``, ``/admin/health`` | management token        |
| status    | none               | open                                            |
| metrics   | none               | metrics token, where one is set                 |
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import flask
from werkzeug.exceptions import HTTPException

from proxy.core.errors import ClientError, ProxyError
from proxy.core.request_id import request_id_var
from proxy.gateway.request import client_of, request_id
from proxy.web.replies import flask_error

_log = logging.getLogger(__name__)

#: The statuses of Flask's own refusals, as codes of the proxy.
_CODE_BY_STATUS: Final = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


class AccessRecord(NamedTuple):
    """One response that is not relayed, for metrics and the access log. ``ms`` is its duration."""

    #: `management`, `minting`, `status`, or `other` for an unknown path.
    route: str
    request_id: str
    method: str
    path: str
    status: int
    ms: float
    client_ip: str


class Mount(NamedTuple):
    """A blueprint with its prefix. ``guard`` is None if it is open or guards itself."""

    blueprint: flask.Blueprint
    prefix: str | None
    guard: Callable[[], None] | None


def create_flask_app(
    mounts: Sequence[Mount],
    observe: Callable[[AccessRecord], None] = lambda record: None,
    trusted_proxies: int = 0,
) -> flask.Flask:
    """Makes the Flask application of ``mounts``, with one error shape for all of them.

    ``observe`` is called for each response, except those of `/v1`, which make events. It gets the
    client's address behind ``trusted_proxies`` reverse proxies.
    """
    app = flask.Flask("proxy", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.before_request(_assign_request_id)
    app.after_request(_add_request_id_header)
    app.after_request(lambda response: _record_response(response, observe, trusted_proxies))
    for mount in mounts:
        if mount.guard is not None:
            mount.blueprint.before_request(mount.guard)
        app.register_blueprint(mount.blueprint, url_prefix=mount.prefix)
    app.register_error_handler(ProxyError, _proxy_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _defect)
    return app


def _proxy_error(error: ProxyError) -> flask.Response:
    return _defect(error) if error.code == "internal_error" else flask_error(error)


def _http_error(error: HTTPException) -> flask.Response:
    """Handles the exceptions of routing and Werkzeug."""
    status = error.code or 500
    if status >= 500:
        return _defect(error)
    code = _CODE_BY_STATUS.get(status, "invalid_request")
    headers = [(name, value) for name, value in error.get_headers() if name == "Allow"]
    return flask_error(ClientError(code=code, headers=headers))


def _defect(error: Exception) -> flask.Response:
    _log.error(
        "request failed: %s %s",
        flask.request.method,
        flask.request.path,
        exc_info=error,
        extra={"request_id": flask.g.request_id},
    )
    return flask_error(ProxyError())


def _assign_request_id() -> None:
    flask.g.began = time.perf_counter()
    flask.g.request_id = request_id(flask.request.headers.get("X-Request-ID"))
    request_id_var.set(flask.g.request_id)


def _record_response(
    response: flask.Response, observe: Callable[[AccessRecord], None], trusted_proxies: int
) -> flask.Response:
    request = flask.request
    if request.blueprint not in ("v1", "minting"):  # these record their responses themselves
        if request.path.startswith(("/manage/", "/admin/")) or request.path == "/cache":
            route = "management"
        else:
            route = "status" if request.blueprint else "other"
        observe(
            AccessRecord(
                route=route,
                request_id=flask.g.request_id,
                method=request.method,
                path=request.path,
                status=response.status_code,
                ms=(time.perf_counter() - flask.g.began) * 1e3,
                client_ip=client_of(request.environ, trusted_proxies),
            )
        )
    return response


def _add_request_id_header(response: flask.Response) -> flask.Response:
    response.headers["X-Proxy-Request-ID"] = flask.g.request_id
    return response
