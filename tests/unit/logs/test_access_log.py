"""The access log: one structured line for each request, never in anybody's way."""

import json
import logging

import pytest

from proxy.logs.access_log import AccessLog
from proxy.logs.config import ConsoleFormatter, JsonFormatter, Sanitizer
from tests.support.event_samples import event


class Lines(logging.Handler):
    """Keeps what would be written."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class World:
    def __init__(self, formatter: logging.Formatter) -> None:
        log = logging.Logger("proxy.logs.access_log", logging.CRITICAL)  # noqa: LOG001
        self.handler = Lines(formatter)
        log.addHandler(self.handler)
        self.log = AccessLog(log)

    @property
    def lines(self) -> list[str]:
        return self.handler.lines


@pytest.fixture
def world() -> World:
    return World(JsonFormatter(Sanitizer()))


def test_a_request(world: World) -> None:
    world.log.events([event("r1", bytes_in=3, project_id="p1", token_id="t1")])
    line = json.loads(world.lines[0])
    del line["time"], line["pid"]
    assert line == {
        "level": "info",
        "logger": "proxy.logs.access_log",
        "message": "POST /v1/chat/completions 200 150.24 ms",
        "request_id": "r1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "completed",
        "error_code": None,
        "duration_ms": 150.24,
        "bytes_in": 3,
        "bytes_out": 0,
        "client_ip": "192.0.2.1",
        "project_id": "p1",
        "token_id": "t1",
    }


def test_a_page(world: World) -> None:
    world.log.log_response("r2", "GET", "/manage/projects", 200, 1.239, "192.0.2.7")
    line = json.loads(world.lines[0])
    assert (line["request_id"], line["path"], line["duration_ms"]) == (
        "r2",
        "/manage/projects",
        1.24,
    )


def test_all_are_there_in_order(world: World) -> None:
    for start in range(0, 2000, 100):
        world.log.events([event(str(start + number)) for number in range(100)])
    assert [json.loads(line)["request_id"] for line in world.lines] == list(map(str, range(2000)))


@pytest.mark.parametrize("path", ["/v1/sk-abcdefghijklmnop", "/v1/100%s%d{x}"])
def test_hostile_paths(world: World, path: str) -> None:
    world.log.events([event("r", endpoint=path)])
    line = json.loads(world.lines[0])
    assert "sk-abc" not in world.lines[0]
    assert line["path"] == path.replace("sk-abcdefghijklmnop", "[secret]")


def test_a_terminal_is_told_nothing() -> None:
    world = World(ConsoleFormatter(Sanitizer()))
    world.log.events([event("r9", endpoint="/v1/\x1b[2J\r\nfake")])
    (line,) = world.lines
    assert line.isprintable()
    assert line.endswith("[r9]")


def test_a_superseded_attempt_has_no_line_of_its_own(world: World) -> None:
    world.log.events([event("a", outcome="superseded"), event("b")])
    assert [json.loads(line)["request_id"] for line in world.lines] == ["b"]
