"""proxy/logs/config.py: a line is always written, is always JSON, and never holds a secret."""

import json
import logging
import logging.config
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.request_id import request_id_var
from proxy.logs.config import ConsoleFormatter, JsonFormatter, Sanitizer, logging_config


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    """Outside of a request, whatever ran in this greenlet before."""
    before = request_id_var.set("")
    yield
    request_id_var.reset(before)


def record(message: object = "hello", *args: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("proxy.test", logging.WARNING, "f.py", 1, message, args, None)
    made.__dict__.update(extra)
    return made


def written(made: logging.LogRecord, *known: str) -> dict[str, Any]:
    line = JsonFormatter(Sanitizer(known)).format(made)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("key sk-abcdefghijkl end", "key [secret] end"),
        ("key 'sk-proj-abc_DEF-123456'", "key '[secret]'"),
        ("Authorization: Bearer abc.def-123", "Authorization: [secret]"),
        ("authorization: BASIC dXNlcjpwYXNz", "authorization: [secret]"),
        ("mysql://user:pass@host/name", "mysql://[secret]@host/name"),
        ("mysql://user:p@ss@host/name", "mysql://[secret]@host/name"),
        ("http://user@host", "http://[secret]@host"),
    ],
)
def test_shapes_of_secrets_are_taken_out(text: str, clean: str) -> None:
    assert Sanitizer().clean(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "token sk-JHjW...fQIZ",
        "the risk-assessment",
        "http://host/path?x=a@b",
        '{"url":"http://host","mail":"a@b"}',
        "Bearer <MANAGEMENT_TOKEN>",
    ],
)
def test_what_only_resembles_one_stays(text: str) -> None:
    assert Sanitizer().clean(text) == text


def test_known_values_are_taken_out_wherever_they_stand() -> None:
    sanitizer = Sanitizer(["hunter2hunter2", "hunter2hunter2-and-more", "tiny"])
    assert sanitizer.clean("xhunter2hunter2-and-morex") == "x[secret]x"
    # Too short to tell from ordinary words.
    assert sanitizer.clean("tiny") == "tiny"


def test_a_known_value_is_found_inside_json() -> None:
    secret = 'quote"and\\backslash'
    assert written(record("it is %s", secret), secret)["message"] == "it is [secret]"


def test_a_json_line() -> None:
    made = record("%s of %d", "one", 2, project_id="p", count=3)
    made.created, made.msecs = 1_779_235_380.0, 123.9
    assert written(made) == {
        "time": "2026-05-20T00:03:00.123Z",
        "level": "warning",
        "logger": "proxy.test",
        "pid": made.process,
        "message": "one of 2",
        "project_id": "p",
        "count": 3,
    }


def test_an_extra_does_not_replace_a_field_of_the_line() -> None:
    line = written(record(level="mine", time="mine", pid=0))
    assert line["level"] == "warning"
    assert "mine" not in line.values()


def test_an_exception_is_one_field_without_its_secrets() -> None:
    try:
        raise ValueError("Bearer abcdefghijkl")
    except ValueError:
        made = record()
        made.exc_info = sys.exc_info()
    line = written(made)
    assert "Traceback" in line["exception"]
    assert "ValueError: [secret]" in line["exception"]
    assert "abcdefghijkl" not in json.dumps(line)


def test_no_exception_and_a_stack() -> None:
    made = record()
    made.exc_info = (None, None, None)
    made.stack_info = "Stack (most recent call last)"
    line = written(made)
    assert "exception" not in line
    assert line["stack"].startswith("Stack")


def test_what_json_cannot_hold_is_written_anyway() -> None:
    loop: list[object] = []
    loop.append(loop)
    line = written(record("file \udcff", big=2**70, loop=loop, path=Path("x"), at=object()))
    assert line["message"] == "file \udcff"
    assert line["big"] == 2**70
    assert "object object" in line["at"]
    assert written(record("x", by_number={1: 2}))["by_number"] == {"1": 2}


def test_arguments_that_do_not_fit_lose_no_line() -> None:
    line = written(record("%d items", "sk-abcdefghijklmnop"))
    assert line["message"] == "%d items ('[secret]',)"
    text = ConsoleFormatter(Sanitizer()).format(record("%d items", "sk-abcdefghijklmnop"))
    assert text == "WARNING proxy.test: %d items ('[secret]',)"


@pytest.mark.slow
@given(message=st.text(), value=st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_any_record_is_one_json_line(message: str, value: object) -> None:
    assert written(record(message, value=value), "a-known-secret")["level"] == "warning"


def test_a_console_line() -> None:
    text = ConsoleFormatter(Sanitizer()).format(record("key %s", "sk-abcdefghijkl"))
    assert text.endswith("WARNING  proxy.test: key [secret]")


def test_a_line_carries_the_id_of_the_request_that_caused_it() -> None:
    console = ConsoleFormatter(Sanitizer())
    assert "request_id" not in written(record())
    request_id_var.set("call-1")
    assert written(record())["request_id"] == "call-1"
    assert console.format(record()).endswith("hello [call-1]")
    # What the caller says itself is more exact.
    assert written(record(request_id="call-2"))["request_id"] == "call-2"
    assert console.format(record(request_id="call-2")).endswith("hello [call-2]")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        made = record()
        made.exc_info = sys.exc_info()
    first, *rest = console.format(made).splitlines()
    assert first.endswith("hello [call-1]")
    assert rest[-1] == "ZeroDivisionError"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_config_for_a_file(tmp_path: Path, log_format: str) -> None:
    path = tmp_path / "proxy.log"
    chosen = logging_config(
        level="info", log_format=log_format, log_file=str(path), known_secrets=["open sesame"]
    )
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    try:
        logging.config.dictConfig(chosen)
        logging.getLogger("gunicorn.error").info("open sesame")
        logging.getLogger("gunicorn.access").info("never")
        logging.getLogger("proxy.x").debug("too quiet")
        for handler in root.handlers:
            handler.close()
    finally:
        root.level, root.handlers[:] = before
    (line,) = path.read_text().splitlines()
    assert "[secret]" in line
    assert line.startswith("{") == (log_format == "json")


def test_config_for_stderr() -> None:
    chosen = logging_config(level="debug", log_format="json", log_file=None, known_secrets=[])
    assert chosen["handlers"]["proxy"]["stream"] is sys.stderr
    assert chosen["root"]["level"] == "DEBUG"


def failure(text: str) -> logging.LogRecord:
    made = record("request failed")
    try:
        raise ValueError(text)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


@pytest.mark.parametrize("most", [4095, 64 * 1024])
@pytest.mark.parametrize("text", ["x" * 200_000, "é\x01" * 100_000, "sk-" + "y" * 200_000])
def test_no_line_is_longer_than_goes_out_in_one_piece(text: str, most: int) -> None:
    for made in (record("it is %s", text), record("extra", path=text), failure(text)):
        line = JsonFormatter(Sanitizer(), most).format(made)
        assert len(line.encode()) + 1 <= most
        found = json.loads(line)
        assert found["logger"] == "proxy.test"
        assert "yyyy" not in line
        shown = ConsoleFormatter(Sanitizer(), most).format(made)
        assert len(shown.encode()) + 1 <= most
        assert "yyyy" not in shown


def test_a_long_traceback_keeps_its_beginning_and_its_end() -> None:
    found = json.loads(JsonFormatter(Sanitizer(), 4095).format(failure("x" * 9000 + " the end")))
    assert found["exception"].startswith("Traceback")
    assert found["exception"].rstrip().endswith("the end")
    assert "[…]" in found["exception"]
    assert (found["truncated"], found["message"]) == (True, "request failed")


def test_standard_error_may_be_a_pipe_and_a_file_is_none() -> None:
    def most(log_file: str | None) -> int:
        made = logging_config(level="info", log_format="json", log_file=log_file, known_secrets=())
        found: int = made["formatters"]["proxy"]["max_bytes"]
        return found

    assert (most(None), most("x.log")) == (4095, 64 * 1024)
