"""Locks on files (``proxy/runtime/filelock.py``)."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.runtime import filelock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def files(path: Path) -> Iterator[tuple[int, int]]:
    """One file, opened twice, as by two processes."""
    descriptors = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2)]
    yield descriptors[0], descriptors[1]
    for descriptor in descriptors:
        os.close(descriptor)


def test_one_has_it(files: tuple[int, int]) -> None:
    one, other = files
    assert filelock.try_lock(one)
    assert not filelock.try_lock(other)
    assert not filelock.try_lock(other, shared=True)
    filelock.unlock(one)
    assert filelock.try_lock(other)


def test_shared_locks_exclude_an_exclusive_one_alone(files: tuple[int, int]) -> None:
    one, other = files
    filelock.lock(one, shared=True)
    assert filelock.try_lock(other, shared=True)
    filelock.unlock(other)
    assert not filelock.try_lock(other)


def test_polling_ends(files: tuple[int, int]) -> None:
    one, other = files
    filelock.lock(one)
    began = time.monotonic()
    assert not filelock.poll_lock(other, 0.03)
    assert time.monotonic() - began >= 0.03
    filelock.unlock(one)
    assert filelock.poll_lock(other, 0)


def test_whether_a_name_still_leads_to_the_file(files: tuple[int, int], path: Path) -> None:
    assert filelock.is_same_file(files[0], path)
    path.rename(path.with_name("moved"))
    assert not filelock.is_same_file(files[0], path)
    path.touch()
    assert not filelock.is_same_file(files[0], path)
