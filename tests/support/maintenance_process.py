"""The maintenance of a database, in a process of its own.

Run it as `python -m tests.support.maintenance_process URL FILE`. Each batch leaves two lines in
FILE: `begin PID` and `end PID`.
"""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402
import os
import sys

import gevent

from proxy.maintenance.scheduler import MaintenanceScheduler
from proxy.store.database import Database
from proxy.store.leases import TaskLeases
from proxy.store.tokens import ExpiredTokens

#: Seconds. Longer than a busy machine stops a process, shorter than a test may take.
LEASE = 4.0


def main(url: str, path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    database = Database.from_url(url)
    expired = ExpiredTokens(database)

    def watched(most: int) -> int:
        os.write(file, f"begin {os.getpid()}\n".encode())
        rows = expired.deactivate(2)
        gevent.sleep(0.02)
        os.write(file, f"end {os.getpid()}\n".encode())
        return most if rows == 2 else 0

    keeper = MaintenanceScheduler(
        TaskLeases(database), {"tokens": watched}, interval=0.2, lease_seconds=LEASE, first=0.2
    )
    keeper.start()
    gevent.sleep(120)


if __name__ == "__main__":
    main(*sys.argv[1:])
