"""``manage.py bench``: measures latency, and the shares of the proxy and of the upstream in it.

Invariant: the direct side of a comparison gets its own key and never the access token. No secret
reaches the table, the files or a message.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import orjson

from proxy.cli import benchrequest, output
from proxy.cli.benchrequest import CHAT, Request, endpoint_of
from proxy.cli.client import Refused, base_url_option, bearer, default_base_url
from proxy.cli.secret_option import SecretOption
from proxy.tools.loadtest import report
from proxy.tools.loadtest.report import figures, svg
from proxy.tools.loadtest.runner import Load, Side, measured
from proxy.tools.verify.raw_client import Unreachable

#: From this share on, the client's own work is reported: it may be part of the measurement.
_MAX_CLIENT_CPU: Final = 0.7
_PATH: Final = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@base_url_option
@click.option("--endpoint", default=CHAT, show_default=True, metavar="PATH")
@click.option(
    "--token",
    cls=SecretOption,
    better="the variable that --token-env names",
    help="Access token; better in the environment, where `ps` does not show it.",
)
@click.option(
    "--token-env", default="PROXY_TOKEN", show_default=True, help="Variable with the access token."
)
@click.option("-r", "--requests", type=click.IntRange(1), default=1, show_default=True)
@click.option("-c", "--concurrency", type=click.IntRange(1), default=1, show_default=True)
@click.option("--method", default="POST", show_default=True)
@click.option("--json", "body", metavar="BODY", help="The request's body. [default: a short chat]")
@click.option("--stream", is_flag=True, help="Request a stream, and time its events.")
@click.option("--output", "results", type=_PATH, metavar="FILE", help="Write results as JSON.")
@click.option("--warmup", type=click.IntRange(0), default=0, help="Requests before, not counted.")
@click.option("--compare-url", metavar="URL", help="Measure this too: the upstream itself.")
@click.option(
    "--compare-token",
    cls=SecretOption,
    better="the variable that --compare-token-env names",
    metavar="KEY",
    help="The key for --compare-url.",
)
@click.option(
    "--compare-token-env",
    default="OPENAI_API_KEY",
    show_default=True,
    help="Variable with the key for --compare-url.",
)
@click.option("--plot", type=_PATH, metavar="FILE.svg", help="Draw the latency distributions.")
@click.pass_context
def bench(
    context: click.Context,
    base_url_given: str | None,
    endpoint: str,
    token: str | None,
    token_env: str,
    requests: int,
    concurrency: int,
    method: str,
    body: str | None,
    stream: bool,
    results: Path | None,
    warmup: int,
    compare_url: str | None,
    compare_token: str | None,
    compare_token_env: str,
    plot: Path | None,
) -> None:
    """Send the same request many times and measure. Exit code 1 when one failed."""
    _check_folders(results, plot)
    if plot is not None and plot.suffix.lower() != ".svg":
        raise click.BadParameter(f"{plot}: expected FILE.svg", param_hint="--plot")
    method = method.upper()
    request = Request(method, endpoint, benchrequest.body(body, method, endpoint, stream=stream))
    where = endpoint_of(base_url_given or default_base_url(), "--base-url")
    wanted = [("proxied", where, bearer(token, "--token", token_env))]
    if compare_url is not None:
        key = bearer(compare_token, "--compare-token", compare_token_env)
        wanted.insert(0, ("direct", endpoint_of(compare_url, "--compare-url"), key))
    concurrency = min(concurrency, requests)
    try:
        sides = [
            Side(name, at.url, Load(request.to(at, secret, stream), concurrency))
            for name, at, secret in wanted
        ]
    except Unreachable as error:
        raise Refused(str(error)) from error
    interrupted = not measured(sides, requests, concurrency, warmup)
    found = [
        {
            "base_url": side.url,
            "endpoint": endpoint,
            "concurrency": concurrency,
            **figures(side.load, stream=stream),
        }
        for side in sides
    ]
    _print([side.name for side in sides], found)
    more: dict[str, Any] = {"method": method, "stream": stream, "interrupted": interrupted}
    if len(found) == 2:
        more |= {"compare": found[0], "ratio": report.ratios(*found)}
    if results is not None:
        document = orjson.dumps(found[-1] | more, option=orjson.OPT_INDENT_2)
        _write(results, document + b"\n")
    if plot is not None:
        title = f"{method} {endpoint}, {concurrency} at once"
        _write(plot, svg(title, _series(sides)).encode())
    for side in sides:
        side.load.close()
    if interrupted:
        click.echo("Interrupted: this is what was measured until then.", err=True)
    failed = interrupted or any(side["failed"] for side in found)
    context.exit(1 if failed else 0)


def _check_folders(*paths: Path | None) -> None:
    """Checks the files before the requests are sent, so that a typo costs no measurement."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise click.BadParameter(f"{path}: there is no such folder")


def _print(names: Sequence[str], found: Sequence[dict[str, Any]]) -> None:
    headings = {name: name for name in names} if len(names) == 2 else {names[0]: ""}
    columns = {"name": "", **headings} | ({"ratio": "ratio"} if len(names) == 2 else {})
    output.table(report.rows(found, names), columns)
    click.echo()
    output.table(report.code_rows(found, names), {"name": "Response code", **headings})
    for name, side in zip(names, found, strict=True):
        for reason, count in side["errors"].items():
            click.echo(f"{name}: {count} × {reason}", err=True)
        if side["client_cpu"] > _MAX_CLIENT_CPU:
            click.echo(
                f"{name}: this client was busy {side['client_cpu']:.0%} of the time; its own cost"
                " is part of the latencies",
                err=True,
            )


def _series(sides: Sequence[Side]) -> dict[str, list[float]]:
    good = {side.name: [s for s in side.load.samples if s.succeeded] for side in sides}
    series = {name: [sample.total for sample in samples] for name, samples in good.items()}
    if len(sides) == 1:
        asked = [s.upstream for s in good["proxied"] if s.upstream is not None]
        series["its upstream's part"] = asked
    return series


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    click.echo(f"Wrote {path}.")
