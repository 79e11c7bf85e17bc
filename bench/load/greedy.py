"""A client that takes a large answer as fast as it can, or reads none of it.

Run as `python -m bench.load.greedy PORT TOKEN PATH pull|idle`, until it is ended: a process of its
own, and a polite one, so that it takes the load's core only when the measuring client does not
need it. On SIGTERM it prints how many bytes it has received in how many seconds.
"""

import signal
import socket
import sys
import time
from types import FrameType
from typing import Final

from bench.load.message import download

_BUFFER: Final = 1 << 18


class Ended(Exception):
    """SIGTERM."""


def _end(signum: int, frame: FrameType | None) -> None:
    raise Ended


def run(port: int, token: str, path: str, *, pull: bool) -> None:
    received = 0
    started = time.monotonic()
    buffer = bytearray(_BUFFER)
    signal.signal(signal.SIGTERM, _end)
    try:
        while True:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(download(port, token, path))
                if not pull:
                    time.sleep(3600)
                while got := connection.recv_into(buffer):
                    received += got
    except Ended:
        sys.stdout.write(f"{received} {time.monotonic() - started}\n")


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2], sys.argv[3], pull=sys.argv[4] == "pull")
