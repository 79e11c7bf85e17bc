"""The composition root of the shipper: ``manage.py events ship``, ``python -m proxy.shipper``.

It delivers the events of this node's workers to the ledger and the remote sinks until it stops.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, NoReturn

from proxy.core.errors import SettingsError
from proxy.events.sinks import LEDGER
from proxy.events.sinks.ledger import LedgerSink
from proxy.events.spool.offsets import Offset
from proxy.events.spool.segment import Batch
from proxy.settings.settings import Settings
from proxy.shipper.metrics import SinkMetrics
from proxy.shipper.process import configure_log, stop_at_end_of_stdin, stop_at_signal
from proxy.shipper.shipper import Shipper, remote_consumers, shipper_lock
from proxy.shipper.spool_consumer import SpoolConsumer
from proxy.store.database import Database
from proxy.store.usage import UsageLedger

_log = logging.getLogger(__name__)

#: Seconds for which a stopping shipper still delivers what it finds in the spool.
_FINISH_SECONDS: Final = 5.0
#: The workers come first.
_NICE: Final = 10


def run(load_settings: Callable[[], Settings], *, attached: bool) -> NoReturn:
    """Ship until SIGTERM, or, if `attached` to a server, until the server has ended.

    Raises SettingsError. Ends the process otherwise.
    """
    # A profile signal to all children of a server must not end this one.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.umask(0o077)  # as in a server: files are for this user alone
    settings = load_settings()
    settings.make_data_dir()
    configure_log(settings)
    ended = threading.Event()
    if attached:
        os.nice(_NICE)
        stop_at_end_of_stdin(ended.set)
    else:
        stop_at_signal(ended.set)
    root = settings.data_dir.absolute() / "spool"
    _log.info("reading the spool %s", root)
    with shipper_lock(root, ended.wait) as locked:
        if locked:
            consumers = remote_consumers(settings, root)
            if not settings.auth.passthrough:
                consumers.insert(0, _ledger_consumer(settings, root))
            with closing(SinkMetrics(settings.data_dir.absolute(), consumers)) as metrics:
                Shipper(consumers, metrics.publish).run(ended, _FINISH_SECONDS)
    # Not by a return: a sink that hangs has a thread that cannot be ended.
    logging.shutdown()
    os._exit(0)


def _ledger_consumer(settings: Settings, root: Path) -> SpoolConsumer:
    """The usage ledger in the server's own database; it stores itself where it continues."""
    sink: LedgerSink | None = None

    def write(source: str, start: Offset, batch: Batch) -> Offset:
        nonlocal sink
        if sink is None:  # made on the consumer's thread: the database may have one of its own
            sink = _ledger_sink(settings)
        return Offset(*sink.write_from(source, start, batch.offset, batch.lines))

    return SpoolConsumer(LEDGER, write, root)


def _ledger_sink(settings: Settings) -> LedgerSink:
    try:
        database = Database.from_url(settings.database.url, pool_size=1)
    except ValueError as error:
        raise SettingsError([f"DATABASE_URL: {error}"]) from error
    return LedgerSink(UsageLedger(database, counted_ids_days=settings.retention.counted_ids_days))


def main() -> NoReturn:
    """Run with the settings of the environment and of ``.env`` in the current directory."""
    try:
        run(
            lambda: Settings.load(os.environ, Path(".env"), serving=False),
            attached="--attached" in sys.argv[1:],
        )
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
