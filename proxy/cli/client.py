"""The HTTP client of the management API, and the options of every command that uses it.

A refusal of the server becomes exit code 1 with the server's own message on stderr. Redirects are
not followed: they would mean that ``--base-url`` is wrong, and the management token must not go to
their target.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import quote, urlsplit

import click
import requests

from proxy.cli.local_settings import lookup
from proxy.cli.secret_option import SecretOption

#: Seconds.
_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 30
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_VISIBLE = re.compile(r"[!-~]+")


class Refused(click.ClickException):
    """The server responded with an error, or not at all. Exit code 1."""


class Api:
    """The API of one proxy with one bearer. A context manager: it holds a connection."""

    def __init__(self, base_url: str, bearer: str = "") -> None:
        self.base_url = base_url
        self._session = session(base_url, bearer)
        #: Seconds that the server may take to respond.
        self.patience = _READ_TIMEOUT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """Returns the decoded response, None for 204. Raises :class:`Refused`."""
        return _decoded(self._send(method, path, body, query))

    def list(self, path: str, **query: str) -> list[Any]:
        """Returns every item of a list, page by page along ``Link: rel="next"``."""
        found: list[Any] = []
        while True:
            response = self._send("GET", path, None, query)
            found += _decoded(response)
            following = response.links.get("next", {}).get("url", "")
            if not following:
                return found
            # Only the query is used: behind a reverse proxy the server may have another name.
            path, query = f"{path.partition('?')[0]}?{urlsplit(following).query}", {}

    def id_of(self, path: str, which: str, **query: str) -> str:
        """Returns the id of the entry of a list whose id or name is ``which``.

        Raises :class:`Refused` when there is none, and when several have this name.
        """
        if _UUID.fullmatch(segment(which)):
            return which
        found = [str(entry["id"]) for entry in self.list(path, **query) if entry["name"] == which]
        if len(found) == 1:
            return found[0]
        raise Refused(
            f"{which!r}: {len(found)} have this name, give the id"
            if found
            else f"{which!r}: no such id or name; `list` shows what there is"
        )

    def status_of(self, path: str) -> tuple[int, Any]:
        """Returns status and body of a status route, whose 503 is a valid response too."""
        response = self._send("GET", path, None, {})
        try:
            return response.status_code, response.json()
        except requests.JSONDecodeError:
            return response.status_code, None

    def _send(
        self, method: str, path: str, body: Any, query: Mapping[str, str]
    ) -> requests.Response:
        try:
            return self._session.request(
                method,
                f"{self.base_url}{path}",
                json=body,
                params=query,
                timeout=(_CONNECT_TIMEOUT, self.patience),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise Refused(f"no response from {self.base_url}: {cause(error)}") from error


def session(base_url: str, bearer: str) -> requests.Session:
    """Makes a session that sends ``bearer`` and nothing from the machine's configuration.

    ``auth`` is a callable because requests otherwise lets ``~/.netrc`` replace the header. A proxy
    from the environment is not used for an address of this machine.
    """

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if bearer:
            request.headers["Authorization"] = f"Bearer {bearer}"
        return request

    made = requests.Session()
    made.auth = authorize
    made.trust_env = not _is_loopback(urlsplit(base_url).hostname or "")
    return made


def error_message(response: requests.Response) -> str:
    """Returns the message of an error response of any shape."""
    try:
        error = response.json()["error"]
        return f"{error['message']} ({error['code']}, HTTP {response.status_code})"
    except (requests.JSONDecodeError, KeyError, TypeError):
        return f"HTTP {response.status_code} {response.reason}: {response.text[:200].strip()}"


def cause(error: BaseException) -> str:
    """Returns a requests error's innermost reason: ``Connection refused``, not nested reprs."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def default_base_url(lookup: Callable[[str, str], str] = lookup) -> str:
    """Returns where a proxy with the settings of this directory, or of ``lookup``, listens."""
    given = lookup("PROXY_BASE_URL", "")
    if given:
        return base_url(given)
    host = lookup("HOST", "127.0.0.1").removeprefix("[").removesuffix("]")
    # A server bound to every address is reached by this one.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (compared only)
    return f"http://{f'[{host}]' if ':' in host else host}:{lookup('PORT', '8080')}"


def base_url(value: str) -> str:
    """Removes a closing slash or ``/v1``, because both are often pasted."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter("expected http(s)://host[:port]", param_hint="--base-url")
    return value.rstrip("/").removesuffix("/v1").rstrip("/")


def management_token() -> str:
    """Returns the token of the environment or ``.env``. While two are valid, the first."""
    return lookup("MANAGEMENT_TOKEN").split(",")[0].strip()


def bearer(given: str | None, option: str, variable: str) -> str:
    """Returns ``given``, or else the value of ``variable``. Raises UsageError."""
    found = given or lookup(variable)
    if not found:
        raise click.UsageError(f"nothing to authorize with: give {option} or set {variable}")
    if not _VISIBLE.fullmatch(found):
        raise click.UsageError(f"{option}, {variable}: not valid in a header")
    return found


def segment(value: str) -> str:
    """Returns ``value`` as one segment of a path, so that no id can address something else."""
    if not value.strip("."):
        raise click.BadParameter("expected an id")
    if value.startswith("sk-"):
        # A secret in a path would be logged by every server on the way.
        raise click.BadParameter("that is a secret; expected an id, as `list` shows it")
    return quote(value, safe="")


base_url_option = click.option(
    "--base-url",
    "--manage-api-base-url",
    "base_url_given",
    metavar="URL",
    help="Where the proxy is. [default: PROXY_BASE_URL, else HOST and PORT: http://127.0.0.1:8080]",
)


def management_command(function: Callable[..., None]) -> Callable[..., None]:
    """Passes ``function`` an :class:`Api` as ``api``, and adds the options that make it."""

    @base_url_option
    @click.option(
        "--management-token",
        "token_given",
        cls=SecretOption,
        better="MANAGEMENT_TOKEN in the environment or .env",
        metavar="TOKEN",
        help="[default: MANAGEMENT_TOKEN of the environment or .env; better there, where `ps`"
        " does not show it]",
    )
    @functools.wraps(function)
    def command(*, base_url_given: str | None, token_given: str | None, **options: Any) -> None:
        bearer = token_given or management_token()
        if not bearer:
            raise click.UsageError("no management token: set MANAGEMENT_TOKEN")
        where = base_url(base_url_given) if base_url_given else default_base_url()
        with Api(where, bearer) as api:
            function(api=api, **options)

    return command


def _decoded(response: requests.Response) -> Any:
    if not 200 <= response.status_code < 300:
        raise Refused(error_message(response))
    if response.status_code == 204:
        return None
    try:
        return response.json()
    except requests.JSONDecodeError as error:
        raise Refused("the response is not JSON: is this the proxy's address?") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
