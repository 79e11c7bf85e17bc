"""Standard output through a pipe that workers share: every line is whole, whatever clients send."""

import json
import os
from typing import Any

import gevent
import requests
from gevent.os import tp_read

from tests.support.proxy_access import ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.wait import wait_until

ROUNDS = 40
LONG = "r" * 120
SECRET = "sk-" + "q" * 22


def test_the_longest_of_everything(own_proxy: ProxyFactory) -> None:
    server = own_proxy(EVENT_LOG="stdout", ACCESS_LOG="on")
    server.migrate()
    reader, writer = os.pipe()
    output = bytearray()

    def read() -> None:
        while piece := tp_read(reader, 3000):
            output.extend(piece)

    reading = gevent.spawn(read)
    server.spawn(output=writer)  # events and log go the same way
    os.close(writer)
    server.wait_ready()

    def ask(number: int) -> None:
        targets = [
            ("GET", "/v1/" + "p" * 7000),
            ("GET", "/v1/" + "%01" * 2400),
            ("A" * 60, f"/v1/{SECRET}/" + "é" * 500),
            ("GET", "/manage/" + "m" * 7000),
            ("M" * 7900, "/v1/x"),
        ]
        for method, target in targets:
            head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nX-Request-ID: {number}{LONG}\r\n\r\n"
            with RawClient(server.port) as client:
                client.send(head.encode("latin-1"))
                client.receive_more()

    gevent.joinall([gevent.spawn(ask, number) for number in range(ROUNDS)], raise_error=True)
    requests.get(f"{server.url}/v1/x", headers={"X-Request-ID": SECRET}, timeout=30)
    requests.get(f"{server.url}/v1/last", timeout=30)
    wait_until(lambda: b'"endpoint":"/v1/last"' in output)
    assert server.stop() == 0
    reading.join(20)
    os.close(reader)
    lines = bytes(output).splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert max(map(len, lines)) < 4095
    assert sum("/v1/pppp" in line.get("endpoint", "") for line in found) == ROUNDS
    assert b"qqqq" not in output
