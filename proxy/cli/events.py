"""``manage.py events``: the processes that take usage events further. Neither is a server.

Neither is monkey-patched: they wait in threads, and their sinks' libraries are used as they are.
"""

import logging.config
import os
import signal
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Final

import click

from proxy import logs
from proxy.cli.installation import load_settings
from proxy.errors import SettingsError
from proxy.events.dispatcher import open_dispatcher
from proxy.events.statusserver import StatusServer
from proxy.settings import Settings

#: Remote destination → what the settings must have for it.
_NEEDED: Final[Mapping[str, Mapping[str, str]]] = {
    "cloudwatch": {"cloudwatch_log_group": "CLOUDWATCH_LOG_GROUP"},
    "http": {"logging_url": "LOGGING_URL"},
}


@click.group()
def events() -> None:
    """Usage events: dispatch."""


@events.command()
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
    help="Seconds after which what another dispatcher holds is taken over.",
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
    settings = load_settings(serving=False)
    _check(settings, to, path)
    _configure_log(settings)
    dispatcher = open_dispatcher(
        settings,
        to,
        path=path,
        group=group or to,
        consumer=consumer or f"{os.uname().nodename}-{os.getpid()}",
        max_tries=max_tries,
        claim_idle=claim_idle,
    )
    if listen:
        host, _, port = listen.rpartition(":")
        try:
            StatusServer(
                host.strip("[]"), int(port), dispatcher.metrics, lambda: dispatcher.trouble
            )
        except (OSError, ValueError, OverflowError) as error:
            raise click.BadParameter(f"{listen}: {error}", param_hint="--listen") from error
    _stop_at_signal(dispatcher.stop)
    dispatcher.run()


def _check(settings: Settings, to: str, path: str | None) -> None:
    needed = {"event_stream": "EVENT_STREAM", **_NEEDED.get(to, {})}
    missing = [name for field, name in needed.items() if not getattr(settings, field)]
    if missing:
        raise SettingsError([f"{name}: needed by events dispatch --to {to}" for name in missing])
    if (to == "file") != (path is not None):
        raise click.UsageError("--path goes with --to file, and is needed there")


def _configure_log(settings: Settings) -> None:
    logging.config.dictConfig(
        logs.config(
            level=settings.log_level,
            log_format=settings.log_format,
            log_file=str(settings.log_file) if settings.log_file else None,
            known_secrets=settings.known_secrets(),
        )
    )


def _stop_at_signal(stop: Callable[[], None]) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
