"""The kernel's values for this process."""

import os
import time

import pytest

from proxy.metrics import process
from proxy.metrics.samples import Samples


def test_values_are_measured() -> None:
    samples = Samples()
    before = len(os.listdir("/proc/self/fd"))
    process.measure(samples, "shipper")
    values = {name: series[("shipper",)] for name, series in samples.values.items()}
    assert values["proxy_process_starts_total"] == 1
    assert values["proxy_process_cpu_seconds_total"] > 0
    assert values["proxy_process_resident_memory_bytes"] > 5_000_000
    assert abs(values["proxy_process_open_fds"] - before) <= 3
    assert values["proxy_process_max_fds"] >= values["proxy_process_open_fds"]


def test_the_start_of_a_process() -> None:
    assert process.started(os.getpid()) <= time.time()
    assert process.started(1) <= process.started(os.getpid())
    assert process.started(2**30) == pytest.approx(time.time(), abs=60)
    assert process.start_ticks(2**30) is None
