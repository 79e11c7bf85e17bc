"""The application log: JSON lines (or plain lines for people), with every secret taken out.

The finished text passes the :class:`Sanitizer`, because an exception's traceback or a driver's
message can contain a key that no caller meant to log. Then it is truncated to what is written in
one piece. The path of a request logs only when something went wrong.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any, Final

import orjson

from proxy.core.json_line import truncate
from proxy.core.request_id import request_id_var
from proxy.logs.sanitizer import Sanitizer

__all__ = ["ConsoleFormatter", "JsonFormatter", "Sanitizer", "logging_config", "message"]

#: Bytes of a line with its line end. On stderr below PIPE_BUF (4096), because larger writes to a
#: pipe that several processes share are torn.
_MAX_STDERR_LINE_BYTES: Final = 4095
_MAX_FILE_LINE_BYTES: Final = 64 * 1024
#: Stands where a part of a text was left out.
_ELLIPSIS: Final = "\n[…]\n"
#: Attributes that every record has; whatever else is on it came through ``extra=``.
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, extras, exception."""

    def __init__(self, sanitizer: Sanitizer, max_bytes: int = _MAX_FILE_LINE_BYTES) -> None:
        """`max_bytes` is the length of a line with its line end."""
        super().__init__()
        self._sanitizer = sanitizer
        self._max_bytes = max_bytes - 1

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": message(record),
        }
        if request_id := request_id_var.get():
            line["request_id"] = request_id
        # An extra named `time` or `level` does not replace the record's.
        taken = _STANDARD | (line.keys() - {"request_id"})
        line |= {k: v for k, v in record.__dict__.items() if k not in taken}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        if record.stack_info:
            line["stack"] = record.stack_info
        text = self._sanitizer.clean(_json(line))
        return text if _fits(text, self._max_bytes) else _truncated(text, self._max_bytes)


class ConsoleFormatter(logging.Formatter):
    """A line for a person: time, level, logger, message, then a traceback if there is one."""

    def __init__(self, sanitizer: Sanitizer, max_bytes: int = _MAX_FILE_LINE_BYTES) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s")
        self._sanitizer = sanitizer
        self._max_bytes = max_bytes - 1

    def format(self, record: logging.LogRecord) -> str:
        try:
            text = super().format(record)
        except (TypeError, ValueError, KeyError):  # arguments that do not fit: see message()
            text = f"{record.levelname} {record.name}: {message(record)}"
        if request_id := getattr(record, "request_id", None) or request_id_var.get():
            first, newline, rest = text.partition("\n")
            text = f"{first} [{request_id}]{newline}{rest}"
        text = self._sanitizer.clean(text)
        return text if _fits(text, self._max_bytes) else _without_middle(text, self._max_bytes)


def _fits(text: str, max_bytes: int) -> bool:
    # A character has at most four bytes, or six as an escape of half a surrogate pair.
    return len(text) * 6 <= max_bytes or len(_encoded(text)) <= max_bytes


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _truncated(text: str, max_bytes: int) -> str:
    """Truncate a line of JSON: first the middle of a traceback, whose end says what happened."""
    line = _encoded(text)
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        fields = {}
    exception = fields.get("exception")
    if isinstance(exception, str):
        excess = len(line) - max_bytes + len('"truncated":true,') + len(orjson.dumps(_ELLIPSIS))
        size = len(orjson.dumps(exception))
        kept = len(exception) * max(0, size - excess) // size
        fields |= {
            "exception": _without_middle(exception, max(kept, max_bytes // 2)),
            "truncated": True,
        }
        line = orjson.dumps(fields)
    return truncate(line, max_bytes).decode()


def _without_middle(text: str, max_bytes: int) -> str:
    data = _encoded(text)
    if len(data) <= max_bytes:
        return text
    head = max_bytes // 3
    tail = max_bytes - head - len(_encoded(_ELLIPSIS))
    return (
        data[:head].decode("utf-8", "ignore") + _ELLIPSIS + data[-tail:].decode("utf-8", "ignore")
    )


def message(record: logging.LogRecord) -> str:
    """The finished message, whatever the arguments are. Never raises: after an exception `logging`
    would print the raw record, secrets included, to stderr."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


def _json(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # half a surrogate pair (a file name that is no UTF-8), a list in itself, …
        scalars = (str, int, float, bool, type(None))
        return json.dumps({k: v if isinstance(v, scalars) else repr(v) for k, v in line.items()})


def logging_config(
    *, level: str, log_format: str, log_file: str | None, known_secrets: Iterable[str]
) -> dict[str, Any]:
    """A ``logging.config.dictConfig`` for gunicorn's ``logconfig_dict``, with one handler.

    Without `log_file` lines go to stderr. gunicorn's own loggers use the same handler.
    """
    sanitizer = Sanitizer(known_secrets)
    formatter = JsonFormatter if log_format == "json" else ConsoleFormatter
    max_bytes = _MAX_STDERR_LINE_BYTES if log_file is None else _MAX_FILE_LINE_BYTES
    handler: dict[str, Any] = {"formatter": "proxy"}
    if log_file is None:
        handler |= {"class": "logging.StreamHandler", "stream": sys.stderr}
    else:
        # Reopens when an outside rotation has moved the file; several workers may append.
        handler |= {"class": "logging.handlers.WatchedFileHandler", "filename": log_file}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"proxy": {"()": formatter, "sanitizer": sanitizer, "max_bytes": max_bytes}},
        "handlers": {"proxy": handler},
        "root": {"level": level.upper(), "handlers": ["proxy"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "ERROR", "handlers": [], "propagate": True},
        },
    }
