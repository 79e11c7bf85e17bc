"""CPU time and memory of processes, from the kernel's own books.

The CPU clock of a process covers its ended threads as well, in nanoseconds; `/proc/PID/stat` holds
the same sum rounded to hundredths of a second, too coarse for microseconds per event.
"""

import time
from pathlib import Path

_CPUCLOCK_SCHED = 2


def _clock_of(pid: int) -> int:
    """The id that clock_getcpuclockid(3) gives for another process on Linux."""
    return (~pid << 3) | _CPUCLOCK_SCHED


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(item) for item in (task / "children").read_text().split()]
        except OSError:  # a thread that has just ended
            continue
    return found


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for child in children(pid):
        found += tree(child)
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its descendants."""
    return sum(time.clock_gettime_ns(_clock_of(each)) for each in tree(pid)) / 1e9


def rss_bytes(pid: int) -> int:
    """Resident memory of one process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def worker_rss_bytes(pid: int) -> int:
    """Of the largest process below ``pid``, or of itself when it has none: the worker."""
    return max(map(rss_bytes, children(pid) or [pid]))
