"""The worker's own decisions; what it does on the wire is shown by the end-to-end tests."""

import socket
import subprocess
import sys
from types import SimpleNamespace

import gevent.socket
import pytest
from gunicorn.http import errors as http_errors

from proxy.core.errors import ClientError, StoreError
from proxy.server.worker import ProxyWorker, _as_proxy_error
from tests.support.loop_probe import LoopProbe
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("raised", "status_line", "status"),
    [
        (http_errors.LimitRequestLine(9000, 8190), "414 URI Too Long", 400),
        (http_errors.LimitRequestHeaders("x"), "431 Request Header Fields Too Large", 400),
        (http_errors.UnsupportedTransferCoding("x"), "501 Not Implemented", 400),
        (http_errors.ExpectationFailed("x"), "417 Expectation Failed", 400),
        (http_errors.ForbiddenProxyRequest("x"), "403 Forbidden", 400),
        (http_errors.InvalidHeader("Cookie: secret"), None, 400),
        (http_errors.InvalidResponseHeader("X"), None, 500),
        (ClientError(code="request_timeout"), None, 408),
        (StoreError(), None, 503),
        (ZeroDivisionError("secret"), None, 500),
    ],
)
def test_the_error_that_a_client_gets(
    raised: Exception, status_line: str | None, status: int
) -> None:
    error, line = _as_proxy_error(raised)
    assert (line, error.status) == (status_line, status)
    assert "secret" not in str(error)


def test_socket_is_patched() -> None:
    """The tests run as the product does."""
    assert socket.socket is gevent.socket.socket


def test_sigusr2_does_not_kill_a_worker_that_is_still_starting() -> None:
    """In a process of its own: it sets every handler anew."""
    script = (
        "import os, signal\n"
        "from proxy.server.worker import ProxyWorker\n"
        "worker = ProxyWorker.__new__(ProxyWorker)\n"
        "worker.PIPE = os.pipe()\n"
        "[os.set_blocking(end, False) for end in worker.PIPE]\n"
        "worker.init_signals()\n"
        "os.kill(os.getpid(), signal.SIGUSR2)\n"
    )
    root = ROOT
    assert subprocess.run([sys.executable, "-c", script], cwd=root).returncode == 0


def test_a_pipelined_request_waits_for_its_turn() -> None:
    """The bytes are here already; those whose sockets became ready come first all the same."""
    worker = ProxyWorker.__new__(ProxyWorker)
    pipelined = SimpleNamespace(pipelined=True)

    def next_request() -> None:
        assert worker._wait_for_request(None, pipelined, served=True)

    with LoopProbe() as other:
        before = other.served
        for _ in range(20):
            next_request()
        assert other.served - before >= 10
