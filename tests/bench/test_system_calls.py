"""System calls of one buffered request on a real worker, counted by strace. No clock is involved.

Skipped where strace is not installed or ptrace is not permitted; `test_path.py` counts what Python
asks the kernel for on any machine.
"""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_upstream import Upstream
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

REQUESTS = 300
#: On the path of a request: two writes; two reads and one look at the idle upstream connection;
#: two random ids; libev registers the client's socket again, since it never deletes it.
EXACT = {"sendto": 2, "recvfrom": 3, "getrandom": 2, "epoll_ctl": 1}
CHAT = b'{"model":"gpt-4.1","messages":[{"role":"user","content":"Hi"}]}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ProxyServer]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    upstream = Upstream()
    proxy = ProxyServer(tmp_path / "node", upstream.url, WEB_CONCURRENCY="1").start()
    yield proxy
    proxy.stop()
    upstream.stop()


def counted(server: ProxyServer, out: Path, requests: int) -> dict[str, float]:
    """System call → how many per request, of all threads of the worker."""
    (worker,) = server.worker_pids()
    token = server.mint(server.create_project()["id"])["token"]
    headers = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]

    def ask(client: RawClient) -> None:
        client.request("POST", "/v1/chat/completions", headers, CHAT)
        assert client.read_response("POST").status == 200

    with RawClient(server.port) as client:
        for _ in range(50):
            ask(client)
        tracer = subprocess.Popen(
            ["strace", "-c", "-f", "-p", str(worker), "-o", str(out)],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert tracer.stderr is not None
            line = tracer.stderr.readline()
            if "attached" not in line:
                pytest.skip(f"strace cannot attach here: {line.strip()}")
            for _ in range(requests):
                ask(client)
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)
    wait_until(out.exists)
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", out.read_text(), re.M)
    return {name: int(calls) / requests for calls, name in rows if name != "total"}


def test_system_calls_of_a_request(server: ProxyServer, tmp_path: Path) -> None:
    found = counted(server, tmp_path / "strace.txt", REQUESTS)
    # What differs belongs to tasks that run now and then beside the requests.
    on_path = {name: round(found.get(name, 0.0), 1) for name in EXACT}
    assert on_path == pytest.approx(EXACT, abs=0.15), found
