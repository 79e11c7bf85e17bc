"""The right parts for the settings (``proxy/limits/__init__.py``)."""

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.core.errors import LimiterError
from proxy.ratelimit import make_table, open_limiter
from proxy.ratelimit.limiter import Bucket, Charge
from proxy.runtime.mapped_file import MappedFile
from tests.support.limiter_stress import ROOT
from tests.support.ports import free_port
from tests.support.services import RedisServer

DEMANDS = [Charge(Bucket("one", 10), 10)]


def test_without_redis_the_node_shares(tmp_path: Path) -> None:
    workers = [open_limiter(redis_url="", on_error="closed", folder=tmp_path) for _ in range(2)]
    assert [worker.take(DEMANDS).refused for worker in workers] == [None, 0]


def test_with_redis_nodes_share(tmp_path: Path, redis_server: RedisServer) -> None:
    nodes = [
        open_limiter(redis_url=redis_server.url, on_error="open", folder=tmp_path / name)
        for name in "ab"
    ]
    assert [node.take(DEMANDS).refused for node in nodes] == [None, 0]
    assert not list(tmp_path.iterdir())  # the table is not charged, nor even made
    for node in nodes:
        node.close()


def test_redis_away_and_open_the_node_limits(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    workers = [open_limiter(redis_url=url, on_error="open", folder=tmp_path) for _ in range(2)]
    assert [worker.take(DEMANDS).refused for worker in workers] == [None, 0]
    assert all(worker.failing for worker in workers)


def test_redis_away_and_closed_no_request_passes(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    limiter = open_limiter(redis_url=url, on_error="closed", folder=tmp_path)
    for _ in range(3):
        with pytest.raises(LimiterError):
            limiter.take(DEMANDS)


def test_a_table_that_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "limits"
    for _ in range(2):
        make_table(folder)
        assert [path.name for path in folder.iterdir()] == ["buckets-1"]
    workers = [open_limiter(redis_url="", on_error="open", folder=folder) for _ in range(2)]
    assert [worker.take(DEMANDS).refused for worker in workers] == [None, 0]
    (tmp_path / "file").write_text("")
    make_table(tmp_path / "file" / "below")  # says nothing: the limiter does


@pytest.mark.parametrize("on_error", ["open", "closed"])
def test_when_all_fails_each_process_limits(tmp_path: Path, on_error: str) -> None:
    """Neither everything passes nor nothing: the table is ours to lose, not the operator's."""
    holder = MappedFile(tmp_path / "buckets-1", b"other", 64)
    holder.lock()
    workers = [open_limiter(redis_url="", on_error=on_error, folder=tmp_path) for _ in range(2)]
    for worker in workers:
        assert [worker.take(DEMANDS).refused for _ in range(2)] == [None, 0]
    holder.close()


def test_a_folder_that_cannot_be_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    limiter = open_limiter(redis_url="", on_error="open", folder=tmp_path / "file" / "below")
    assert [limiter.take(DEMANDS).refused for _ in range(2)] == [None, 0]


def test_a_library_that_is_not_used_is_not_loaded(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from proxy.ratelimit import open_limiter\n"
        "open_limiter(redis_url='', on_error='open', folder=Path(sys.argv[1])).take([])\n"
        "print('redis' in sys.modules)\n"
        "open_limiter(redis_url='redis://127.0.0.1', on_error='open', folder=Path(sys.argv[1]))\n"
        "print('redis' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "True"]
