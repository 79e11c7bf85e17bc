"""``manage.py verify``: the same request direct and through the proxy, and every difference.

Users can check the proxy's promises with it: it looks only at the bytes on the wire.

Note: any output may quote a token or a key (an upstream's error does), so all of it passes through
one function that removes them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from proxy.cli import output
from proxy.cli.client import Refused, base_url, base_url_option, default_base_url
from proxy.cli.local_settings import lookup
from proxy.cli.secret_option import SecretOption
from proxy.tools.verify.compare import ASPECTS, timing
from proxy.tools.verify.probes import Probe, built_in, parse_request
from proxy.tools.verify.raw_client import Endpoint, Unreachable
from proxy.tools.verify.runner import Pair, Row, Side

#: Upstreams quote a refused key in parts: ``sk-ab***yz``.
_KEY_LIKE: Final = re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_*.-]{4,}")


@click.command()
@base_url_option
@click.option(
    "--token",
    cls=SecretOption,
    better="PROXY_TOKEN in the environment or .env",
    help="Access token. [default: PROXY_TOKEN of the environment or .env]",
)
@click.option(
    "--direct-url",
    metavar="URL",
    help="The upstream. [default: UPSTREAM_BASE_URL, else https://api.openai.com]",
)
@click.option(
    "--direct-key",
    cls=SecretOption,
    better="OPENAI_API_KEY in the environment or .env",
    metavar="KEY",
    help="The upstream's key. [default: OPENAI_API_KEY of the environment or .env; better there,"
    " where `ps` does not show it]",
)
@click.option("--model", default="gpt-4.1-mini", show_default=True, help="For the two chats.")
@click.option(
    "--request",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Send this instead of the built-in set: `POST /v1/...`, header lines, an empty line, the"
    " body. May be given more than once.",
)
@click.option("--exact", is_flag=True, help="Generated text must be equal to the byte, too.")
@click.option("--verbose", is_flag=True, help="Also what varies, what is documented, and times.")
@output.json_option
@click.pass_context
def verify(
    context: click.Context,
    base_url_given: str | None,
    token: str | None,
    direct_url: str | None,
    direct_key: str | None,
    model: str,
    files: tuple[Path, ...],
    exact: bool,
    verbose: bool,
    json_wanted: bool,
) -> None:
    """Compare the proxy's responses with the upstream's. Exit code 1 when they differ."""
    upstream_key = direct_key or lookup("OPENAI_API_KEY")
    access_token = token or lookup("PROXY_TOKEN")
    if not access_token:
        raise click.UsageError("no access token: give --token or set PROXY_TOKEN")
    if not upstream_key:
        raise click.UsageError("no key of the upstream: give --direct-key or set OPENAI_API_KEY")
    probes = [_from_file(path) for path in files] or built_in(model)
    where = base_url(base_url_given) if base_url_given else default_base_url()
    pair = Pair(
        Side(_endpoint(_direct_url(direct_url), "--direct-url"), upstream_key),
        Side(_endpoint(where, "--base-url"), access_token),
        exact,
    )
    try:
        rows = [pair.examine(probe) for probe in probes]
    except Unreachable as error:
        raise Refused(_shown(str(error), pair.secrets)) from error
    report = _shown(_report(pair, rows), pair.secrets)
    if json_wanted:
        output.as_json(report)
    else:
        _print(report, verbose)
    context.exit(0 if report["faithful"] else 1)


def _from_file(path: Path) -> Probe:
    try:
        return parse_request(path.name, path.read_bytes())
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--request") from error


def _direct_url(given: str | None) -> str:
    configured = lookup("UPSTREAM_BASE_URL") or lookup("OPENAI_API_URL")
    return given or configured or "https://api.openai.com"


def _endpoint(url: str, option: str) -> Endpoint:
    try:
        usable = urlsplit(url).port != 0 and "@" not in url and "?" not in url and "#" not in url
        if not usable:
            raise ValueError
        return Endpoint(base_url(url))
    except (ValueError, click.BadParameter):
        message = "expected http(s)://host[:port][/prefix]"
        raise click.BadParameter(message, param_hint=option) from None


def _report(pair: Pair, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "direct_url": pair.direct.endpoint.url,
        "base_url": pair.proxied.endpoint.url,
        "faithful": not any(row.found.differences for row in rows),
        "requests": [_row(row) for row in rows],
    }


def _row(row: Row) -> dict[str, Any]:
    responses = {"direct": row.direct, "proxied": row.proxied}
    return {
        "name": row.probe.name,
        "method": row.probe.method,
        "target": row.probe.target,
        "code": row.direct.status if row.direct else None,
        "aspects": {
            aspect: row.found.verdict(aspect) if row.found.complete or aspect == "status" else None
            for aspect in ASPECTS
        },
        "differences": [{"aspect": f.aspect, "text": f.text} for f in row.found.differences],
        "varies": [{"aspect": f.aspect, "text": f.text} for f in row.found.varies],
        "named": row.found.named,
        "timing": {side: timing(response) for side, response in responses.items() if response},
    }


def _print(report: dict[str, Any], verbose: bool) -> None:
    rows = report["requests"]
    columns = {name: name for name in ("request", "code", *ASPECTS)}
    output.table([{"request": r["name"], "code": r["code"], **r["aspects"]} for r in rows], columns)
    click.echo(f"\n{report['direct_url']} → {report['base_url']}:")
    for row in rows:
        for item in row["differences"]:
            click.echo(f"{row['name']}: {item['aspect']}: {item['text']}")
        if verbose:
            _print_more(row)
    count = sum(len(row["differences"]) for row in rows)
    click.echo(
        f"{count} difference{'s' if count > 1 else ''}." if count else "No undocumented difference."
    )


def _print_more(row: dict[str, Any]) -> None:
    for item in row["varies"]:
        click.echo(f"{row['name']}: {item['aspect']} varies: {item['text']}")
    for text in row["named"]:
        click.echo(f"{row['name']}: documented: {text}")
    for side, figures in row["timing"].items():
        text = ", ".join(f"{name} {value}" for name, value in figures.items())
        click.echo(f"{row['name']}: {side}: {text}")


def _shown(value: Any, secrets: Sequence[str]) -> Any:
    """Returns ``value``, a string or a JSON value, without tokens and keys."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        # A response may contain control characters, which a terminal would obey.
        printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)
        return _KEY_LIKE.sub("sk-***", printable)
    if isinstance(value, dict):
        return {name: _shown(item, secrets) for name, item in value.items()}
    if isinstance(value, list):
        return [_shown(item, secrets) for item in value]
    return value
