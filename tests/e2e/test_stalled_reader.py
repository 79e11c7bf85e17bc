"""Standard output and standard error are one pipe, and whoever reads it stops reading."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

#: Lines of nearly 4 KB each: more than the memory for them holds, and than a pipe does by far.
REQUESTS = 2600
LONG = "x" * 1700
LOG_WRITER = "proxy.logs.async_handler"


def test_requests_go_on_and_the_lines_come_later(tmp_path: Path, upstream: Upstream) -> None:
    server = ProxyServer(
        tmp_path,
        upstream.url,
        WEB_CONCURRENCY="1",
        EVENT_LOG="stdout",
        EVENT_QUEUE_SIZE="100",  # it overflows, which is logged from the event loop
        ACCESS_LOG="on",
    )
    server.migrate()
    read, write = os.pipe()
    try:
        server.spawn(output=write)
        os.close(write)
        server.wait_ready()
        project = server.create_project()
        token = server.mint(project["id"])
        access = Access(project["id"], token["id"], token["token"])
        with RawClient(server.port) as client:
            for _ in range(300):
                client.request("GET", "/v1/models", [("Authorization", "Bearer none")])
                assert client.read_response("GET").status == 401
            for number in range(REQUESTS):
                client.request("GET", f"/{LONG}/{number}")
                assert client.read_response("GET").status == 404
            client.request("GET", "/v1/models", [access.bearer])
            assert client.read_response("GET").status == 200
        with (tmp_path / "read").open("wb") as file:
            reader = subprocess.Popen(["cat"], stdin=read, stdout=file)
        dropped = re.compile(r'"message":"(\d+) log lines were dropped"')
        wait_until(lambda: dropped.search((tmp_path / "read").read_text()) is not None)
        assert server.stop() == 0
        assert reader.wait(20) == 0
    finally:
        os.close(read)  # first: a server that hangs in a write comes free
        server.stop()
    lines = [json.loads(line) for line in (tmp_path / "read").read_text().splitlines()]
    logged = [line for line in lines if "logger" in line]
    numbers = [number for line in logged if (number := number_of(line)) is not None]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert any("drop" in line["message"] for line in logged if line["logger"] != LOG_WRITER)
    told = [line["message"] for line in logged if line["logger"] == LOG_WRITER]
    lost = sum(int(message.split()[0]) for message in told)
    assert len(numbers) < REQUESTS <= len(numbers) + lost
    assert logged[-1]["message"], "the last words of the server"


def number_of(line: dict[str, Any]) -> int | None:
    """Of the request whose line of the access log this is."""
    path = line.get("path", "")
    return int(path.rpartition("/")[2]) if LONG in path else None
