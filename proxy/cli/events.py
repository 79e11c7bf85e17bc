"""``manage.py events``: the processes that deliver usage events."""

import os
from collections.abc import Mapping
from typing import Final

import click

from proxy.cli.local_settings import load_settings
from proxy.core.errors import SettingsError
from proxy.settings.settings import Settings
from proxy.shipper import __main__ as shipper
from proxy.shipper.status_server import StatusServerError

#: Remote destination → field of the settings that it needs → its name.
_NEEDED: Final[Mapping[str, Mapping[str, str]]] = {
    "cloudwatch": {"cloudwatch_log_group": "CLOUDWATCH_LOG_GROUP"},
    "http": {"logging_url": "LOGGING_URL"},
}


@click.group()
def events() -> None:
    """Usage events: ship, dispatch."""


@events.command(short_help="From the Redis stream to a file, CloudWatch Logs or HTTP.")
@click.option(
    "--to", type=click.Choice(["file", *_NEEDED]), required=True, help="Where the events go."
)
@click.option("--path", help="With --to file: the file of JSON lines.")
@click.option("--group", help="Consumer group; each gets every event. [default: the value of --to]")
@click.option("--consumer", help="Name in the group. [default: host name and process id]")
@click.option("--max-tries", type=click.IntRange(1), default=10, show_default=True)
@click.option(
    "--claim-idle",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="Seconds after which another dispatcher's pending events are taken over.",
)
@click.option("--listen", metavar="HOST:PORT", help="Serve /metrics and /ready there.")
def dispatch(
    to: str,
    path: str | None,
    group: str | None,
    consumer: str | None,
    max_tries: int,
    claim_idle: float,
    listen: str | None,
) -> None:
    """Take events from the Redis stream EVENT_STREAM and deliver them, until SIGTERM.

    Dispatchers of one group share the events. With --to cloudwatch or http the destination is that
    of the settings.
    """
    # Imported here: every server starts a shipper, and few need the Redis library.
    from proxy.shipper.dispatcher import run_dispatcher

    settings = load_settings(serving=False)
    _check(settings, to, path)
    listener = _host_and_port(listen) if listen else None
    try:
        run_dispatcher(
            settings,
            to,
            path=path,
            group=group or to,
            consumer=consumer or f"{os.uname().nodename}-{os.getpid()}",
            max_tries=max_tries,
            claim_idle=claim_idle,
            listener=listener,
        )
    except StatusServerError as error:
        raise click.BadParameter(f"{listen}: {error}", param_hint="--listen") from error


@events.command(short_help="From this node's spool to the ledger and the remote sinks.")
@click.option("--attached", is_flag=True, hidden=True, help="Started by a server: see there.")
def ship(attached: bool) -> None:
    """Bring the events of this node's workers to the ledger and the remote sinks, until SIGTERM.

    A server does this by itself, unless EVENT_SHIPPER=off.
    """
    shipper.run(lambda: load_settings(serving=False), attached=attached)


def _check(settings: Settings, to: str, path: str | None) -> None:
    needed = {"event_stream": "EVENT_STREAM", **_NEEDED.get(to, {})}
    missing = [name for field, name in needed.items() if not getattr(settings.sinks, field)]
    if missing:
        raise SettingsError([f"{name}: needed by events dispatch --to {to}" for name in missing])
    if (to == "file") != (path is not None):
        raise click.UsageError("--path goes with --to file, and is needed there")


def _host_and_port(value: str) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port[:6]) <= 65535):
        raise click.BadParameter(f"{value}: expected HOST:PORT", param_hint="--listen")
    return host.strip("[]"), int(port)
