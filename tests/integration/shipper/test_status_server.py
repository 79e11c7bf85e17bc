"""The status server of a process that is no server (``proxy/shipper/status_server.py``)."""

import socket

import pytest
import requests

from proxy.shipper.status_server import StatusServer


def test_metrics_and_readiness() -> None:
    trouble: list[str | None] = ["Redis: ConnectionError"]
    server = StatusServer("127.0.0.1", 0, lambda: "a_total 1\n", lambda: trouble[0])
    where = f"http://127.0.0.1:{server.port}"
    metrics = requests.get(f"{where}/metrics", timeout=5)
    assert (metrics.status_code, metrics.text) == (200, "a_total 1\n")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    ready = requests.get(f"{where}/ready", timeout=5)
    assert (ready.status_code, ready.text) == (503, "Redis: ConnectionError\n")
    trouble[0] = None
    assert requests.get(f"{where}/ready?x=1", timeout=5).status_code == 200
    assert requests.get(f"{where}/other", timeout=5).status_code == 404
    assert requests.post(f"{where}/ready", timeout=5).status_code == 501
    server.close()


def test_a_busy_port_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            StatusServer("127.0.0.1", taken.getsockname()[1], lambda: "", lambda: None)
