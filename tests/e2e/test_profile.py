"""SIGUSR2 at a worker: a profile where one is wanted, and never the worker's end."""

import os
import signal
from pathlib import Path

from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.wait import wait_until


def ask(server: ProxyServer, access: Access, count: int = 1) -> None:
    with RawClient(server.port) as client:
        for _ in range(count):
            client.request("GET", "/v1/models", [access.bearer], b"")
            assert client.read_response("GET").status == 200


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"))


def test_a_profile_of_a_serving_worker(own_proxy: ProxyFactory, tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    server, access = own_proxy.started(WEB_CONCURRENCY="1", PROFILE_DIR=str(folder))
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGUSR2)
    wait_until(lambda: "sampling for 30 s" in server.log_text())
    ask(server, access, 300)
    os.kill(worker, signal.SIGUSR2)
    wait_until(lambda: bool(files(folder, ".folded")))
    (folded,) = files(folder, ".folded")
    assert folded.stem.endswith(f"-{worker}")
    stacks = [line.rsplit(" ", 1) for line in folded.read_text().splitlines()]
    assert all(int(weight) > 0 for _, weight in stacks)
    served = [
        stack
        for stack, _ in stacks
        if "RelayEndpoint.__call__ (proxy/gateway/endpoint.py:" in stack
    ]
    assert served
    assert all("ProxyWorker.handle (proxy/server/worker.py:" in stack for stack in served)
    (summary,) = files(folder, ".txt")
    assert summary.read_text().startswith(f"process {worker}: ")
    assert server.worker_pids() == [worker]
    ask(server, access)


def test_a_worker_that_stops_meanwhile_writes_what_it_has(
    own_proxy: ProxyFactory, tmp_path: Path
) -> None:
    folder = tmp_path / "profiles"
    server, access = own_proxy.started(WEB_CONCURRENCY="1", PROFILE_DIR=str(folder))
    os.kill(server.worker_pids()[0], signal.SIGUSR2)
    wait_until(lambda: "sampling for 30 s" in server.log_text())
    ask(server, access, 100)
    assert server.stop() == 0
    assert len(files(folder, ".folded")) == 1
    assert "SIGPROF" not in server.log_text()
    assert "Traceback" not in server.log_text()


def test_without_a_folder_the_worker_goes_on(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="1")
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGUSR2)
    wait_until(lambda: "PROFILE_DIR is not set" in server.log_text())
    ask(server, access)
    assert server.worker_pids() == [worker]
    assert not list(server.folder.glob("**/*.folded"))
