"""One warm worker for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.warm import WarmWorker


@pytest.fixture
def warm(tmp_path: Path, closing: None) -> Iterator[WarmWorker]:
    with WarmWorker(tmp_path) as worker:
        for _ in range(5):  # caches, pools, specialised bytecode
            worker.ask()
        worker.settle()
        yield worker
