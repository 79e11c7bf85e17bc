"""CPU time and memory of processes, and what the host took, from the kernel's own books.

The CPU clock of a process covers its ended threads as well, in nanoseconds; `/proc/PID/stat` holds
the same sum rounded to hundredths of a second, too coarse for microseconds per event.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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


@dataclass(frozen=True)
class CoreTime:
    """What all cores have counted since the start of the machine, in ticks."""

    total: int
    stolen: int

    @classmethod
    def now(cls) -> Self:
        # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice
        ticks = [int(item) for item in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        return cls(sum(ticks), ticks[7])

    def stolen_since(self, earlier: Self) -> float:
        """The share (0 … 1) of the cores' time that a virtual machine's host gave to others."""
        return (self.stolen - earlier.stolen) / max(1, self.total - earlier.total)
