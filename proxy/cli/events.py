"""``manage.py events``: the processes that take usage events further. Neither is a server.

Neither is monkey-patched: they wait in threads, and their sinks' libraries are used as they are.
"""

import logging
import logging.config
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from proxy.cli.local_settings import load_settings, open_database
from proxy.core.errors import SettingsError
from proxy.events.sinks import LEDGER
from proxy.events.sinks.ledger import LedgerSink
from proxy.events.spool.offsets import Offset
from proxy.events.spool.segment import Batch
from proxy.logs import config
from proxy.settings.settings import Settings
from proxy.shipper.metrics import SinkMetrics
from proxy.shipper.shipper import Shipper, remote_consumers, shipper_lock
from proxy.shipper.spool_consumer import SpoolConsumer
from proxy.shipper.status_server import StatusServer
from proxy.store.usage import UsageLedger

_log = logging.getLogger(__name__)

#: Seconds for which an ending shipper goes on with what it finds in the spool.
_FINISH: Final = 5.0
_NICE: Final = 10
#: Remote destination → what the settings must have for it.
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
    # Only here: every server starts a shipper, and few of them have a Redis to load a library for.
    from proxy.shipper.dispatcher import open_dispatcher

    settings = load_settings(serving=False)
    _check(settings, to, path)
    listener = _host_and_port(listen) if listen else None
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
    _stop_at_signal(dispatcher.stop)
    if listener:
        try:
            StatusServer(*listener, dispatcher.metrics, lambda: dispatcher.trouble)
        except OSError as error:
            reason = error.strerror or str(error)
            raise click.BadParameter(f"{listen}: {reason}", param_hint="--listen") from error
    _log.info(
        "dispatching the stream %s, group %s, to %s",
        settings.sinks.event_stream,
        group or to,
        _destination(settings, to, path),
    )
    dispatcher.run()


@events.command(short_help="From this node's spool to the ledger and the remote sinks.")
@click.option("--attached", is_flag=True, hidden=True, help="Started by a server: see there.")
def ship(attached: bool) -> None:
    """Bring the events of this node's workers to the ledger and the remote sinks, until SIGTERM.

    A server does this by itself, unless EVENT_SHIPPER=off.
    """
    # Whoever asks all children of a server for a profile must not end this one.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.umask(0o077)  # as in a server: what it makes is for its user alone
    settings = load_settings(serving=False)
    settings.make_data_dir()
    _configure_log(settings)
    ended = threading.Event()
    if attached:
        os.nice(_NICE)  # the workers come first
        _stop_at_end_of_stdin(ended.set)
    else:
        _stop_at_signal(ended.set)
    root = settings.data_dir.absolute() / "spool"
    _log.info("reading the spool %s", root)
    with shipper_lock(root, ended.wait) as mine:
        if mine:
            consumers = remote_consumers(settings, root)
            if not settings.auth.passthrough:
                consumers.insert(0, _ledger_consumer(settings, root))
            with closing(SinkMetrics(settings.data_dir.absolute(), consumers)) as figures:
                Shipper(consumers, figures.publish).run(ended, _FINISH)
    # Not by a return: a sink that hangs has a thread which nobody can end.
    logging.shutdown()
    os._exit(0)


def _ledger_consumer(settings: Settings, root: Path) -> SpoolConsumer:
    """The usage ledger, in the server's own database; it remembers itself where it goes on."""
    sink: LedgerSink | None = None

    def take(source: str, start: Offset, batch: Batch) -> Offset:
        nonlocal sink
        if sink is None:  # on the consumer's thread: the database may have one of its own
            sink = _ledger_sink(settings)
        return Offset(*sink.write_from(source, start, batch.position, batch.lines))

    return SpoolConsumer(LEDGER, take, root)


def _ledger_sink(settings: Settings) -> LedgerSink:
    database, days = open_database(settings), settings.retention.counted_ids_days
    return LedgerSink(UsageLedger(database, counted_ids_days=days))


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


def _destination(settings: Settings, to: str, path: str | None) -> str:
    """For the log: of a URL the host alone, the rest may be a secret."""
    if to == "file":
        return f"the file {path}"
    if to == "cloudwatch":
        return f"the log group {settings.sinks.cloudwatch_log_group}"
    return urlsplit(settings.sinks.logging_url).netloc


def _configure_log(settings: Settings) -> None:
    logging.config.dictConfig(
        config.logging_config(
            level=settings.logs.level,
            log_format=settings.logs.format,
            log_file=str(settings.logs.file) if settings.logs.file else None,
            known_secrets=settings.known_secrets(),
        )
    )


def _stop_at_signal(stop: Callable[[], None]) -> None:
    """``stop`` at the first SIGTERM or SIGINT, end at once at the second.

    To be called before there is any other thread: all of them must have the signals blocked. On a
    thread itself, for a handler would run in between any two steps of the main thread, which may
    hold the very lock that ``stop`` needs.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        signal.sigwait(signals)
        stop()
        signal.sigwait(signals)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _stop_at_end_of_stdin(stop: Callable[[], None]) -> None:
    """For whom a server has started: the other end of the pipe is open in its master and workers.

    So this comes when the last of them has ended, however that was. Signals to all processes of a
    service, or of a terminal, come earlier, when there is still something to ship.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def wait() -> None:
        while os.read(0, 4096):
            pass
        stop()

    threading.Thread(target=wait, daemon=True).start()
