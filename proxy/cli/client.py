"""The HTTP client of the management API, and the options that every command with one takes.

A server that says no becomes exit code 1 with the server's own message on stderr. Redirects are
not followed: they would mean that ``--base-url`` is wrong, and the management token must not
travel to where they point.
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

_TIMEOUT = (5, 30)
_VISIBLE = re.compile(r"[!-~]+")


class Refused(click.ClickException):
    """The server answered with an error, or not at all. Exit code 1."""


class Api:
    """One proxy, one bearer. A context manager: it holds a connection."""

    def __init__(self, base_url: str, bearer: str = "") -> None:
        self.base_url = base_url
        self._session = session(base_url, bearer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The decoded answer, None for 204. Raises :class:`Refused`."""
        return _decoded(self._send(method, path, body, query))

    def list(self, path: str, **query: str) -> list[Any]:
        """Every item of a list, page after page as ``Link: rel="next"`` leads."""
        found: list[Any] = []
        while True:
            response = self._send("GET", path, None, query)
            found += _decoded(response)
            following = response.links.get("next", {}).get("url", "")
            if not following:
                return found
            # Only the query: behind a reverse proxy the server may know itself by another name.
            path, query = f"{path.partition('?')[0]}?{urlsplit(following).query}", {}

    def status_of(self, path: str) -> tuple[int, Any]:
        """Status and body of a status route, whose 503 is an answer too."""
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
                timeout=_TIMEOUT,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise Refused(f"no answer from {self.base_url}: {cause(error)}") from error


def session(base_url: str, bearer: str) -> requests.Session:
    """A session that sends ``bearer`` and nothing that the machine's configuration adds.

    ``auth`` is set to a callable because requests otherwise lets ``~/.netrc`` replace the header;
    a proxy from the environment is not asked for an address of this very machine.
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
    """What an answer with an error status says, whatever its shape."""
    try:
        error = response.json()["error"]
        return f"{error['message']} ({error['code']}, HTTP {response.status_code})"
    except (requests.JSONDecodeError, KeyError, TypeError):
        return f"HTTP {response.status_code} {response.reason}: {response.text[:200].strip()}"


def cause(error: BaseException) -> str:
    """The innermost reason of a requests error: ``Connection refused``, not four nested reprs."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def default_base_url(lookup: Callable[[str, str], str] = lookup) -> str:
    """Where a proxy with the settings of this directory, or those of ``lookup``, listens."""
    given = lookup("PROXY_BASE_URL", "")
    if given:
        return base_url(given)
    host = lookup("HOST", "127.0.0.1").removeprefix("[").removesuffix("]")
    # What is bound to every address is reached by this one.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (compared only)
    return f"http://{f'[{host}]' if ':' in host else host}:{lookup('PORT', '8080')}"


def base_url(value: str) -> str:
    """Without closing slash or ``/v1``, as people paste both."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter("expected http(s)://host[:port]", param_hint="--base-url")
    return value.rstrip("/").removesuffix("/v1").rstrip("/")


def management_token() -> str:
    """The environment's or ``.env``'s; while two are valid, the first."""
    return lookup("MANAGEMENT_TOKEN").split(",")[0].strip()


def bearer(given: str | None, option: str, variable: str) -> str:
    """``given``, else what ``variable`` holds. Raises UsageError."""
    found = given or lookup(variable)
    if not found:
        raise click.UsageError(f"nothing to authorize with: give {option} or set {variable}")
    if not _VISIBLE.fullmatch(found):
        raise click.UsageError(f"{option}, {variable}: not valid in a header")
    return found


def segment(value: str) -> str:
    """``value`` as one segment of a path, so that no id can address something else."""
    if not value.strip("."):
        raise click.BadParameter("expected an id")
    if value.startswith("sk-"):
        # A secret in a path would be in the log of everything between here and the server.
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
    """Gives ``function`` an :class:`Api` as ``api``, and the options that make it."""

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
        raise Refused("the answer is not JSON: is this the proxy's address?") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
