"""The process around a shipper or dispatcher: its log, and the signals that stop it.

Neither process is a server and neither is monkey-patched: they wait in threads, and their sinks'
libraries are used as they are.
"""

import logging.config
import os
import signal
import threading
from collections.abc import Callable

from proxy.logs import config
from proxy.settings.settings import Settings


def configure_log(settings: Settings) -> None:
    """Configure the application log as a server does."""
    logging.config.dictConfig(
        config.logging_config(
            level=settings.logs.level,
            log_format=settings.logs.format,
            log_file=str(settings.logs.file) if settings.logs.file else None,
            known_secrets=settings.known_secrets(),
        )
    )


def stop_at_signal(stop: Callable[[], None]) -> None:
    """Call `stop` at the first SIGTERM or SIGINT; exit at once at the second.

    Call it before there is any other thread, because all threads must have the signals blocked.
    `stop` runs on a thread of its own: a signal handler would run between any two steps of the main
    thread, which may hold the very lock that `stop` needs.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        signal.sigwait(signals)
        stop()
        signal.sigwait(signals)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def stop_at_end_of_stdin(stop: Callable[[], None]) -> None:
    """Call `stop` when the last process of the server that started this one has ended.

    The other end of the pipe is open in the server's master and workers, so it is closed when the
    last of them ends, however it ends. Signals to all processes of a service or a terminal come
    earlier, while there is still something to ship, so they are ignored.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def wait() -> None:
        while os.read(0, 4096):
            pass
        stop()

    threading.Thread(target=wait, daemon=True).start()
