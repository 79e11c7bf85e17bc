"""What the kernel knows about this process: CPU time, memory, open files.

The families are named ``proxy_process_*``, with the kind of process as a label, and not
``process_*``: those describe one process, and a scrape shows all processes together.
"""

import os
import resource
import time
from pathlib import Path

from proxy.metrics.samples import Samples

_STATUS = Path("/proc/self/statm")
_FILES = Path("/proc/self/fd")


def measure(samples: Samples, process: str) -> None:
    """Set the samples of this process, with the label `process`. Unknown values are left out."""
    labels = (process,)
    samples.set("proxy_process_starts_total", 1, labels)
    samples.set("proxy_process_cpu_seconds_total", round(time.process_time(), 3), labels)
    samples.set("proxy_process_max_fds", resource.getrlimit(resource.RLIMIT_NOFILE)[0], labels)
    try:
        pages = int(_STATUS.read_text().split()[1])
        files = len(os.listdir(_FILES))  # noqa: PTH208  (a Path for each of thousands)
    except OSError:  # not Linux
        return
    memory = pages * resource.getpagesize()
    samples.set("proxy_process_resident_memory_bytes", memory, labels)
    samples.set("proxy_process_open_fds", files, labels)


def started(pid: int) -> float:
    """When a process began, in unix seconds; the current time where it is unknown."""
    ticks = start_ticks(pid)
    if ticks is None:
        return round(time.time(), 2)
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return round(time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK"), 2)


def start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where it is unknown."""
    try:
        # Fields are counted behind the command's name, which may hold anything. Start is the 22nd.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
