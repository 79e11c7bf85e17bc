"""The application log: JSON lines (or plain lines for people), with every secret taken out.

The last step before a line is written is the :class:`Sanitizer`, on the finished text: an
exception's traceback or a driver's message can carry a key that no caller ever meant to log.
Nothing on the path of a request logs unless something went wrong.
"""

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any, Final

import orjson

from proxy import current

#: Attributes that every record has; whatever else is on it came through ``extra=``.
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


class Sanitizer:
    """Takes secrets out of text: what looks like one, and the very values it was told.

    Tokens and upstream keys (``sk-…``), bearer and basic credentials, and passwords in URLs are
    found by shape; ``known`` values (management tokens, encryption keys) wherever they stand.
    """

    _SHAPES: Final = re.compile(
        r"\bsk-[A-Za-z0-9_-]{8,}"
        r"|(?i:\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,})"
        # Up to the last @ before the path, as a password may hold one; never over a quote, or a
        # URL and a mail address in one JSON line would count as one.
        r"|(?<=://)[^\s/\"'<>]+(?=@)"
    )

    def __init__(self, known: Iterable[str] = ()) -> None:
        found = {value for value in known if len(value) >= 6}
        # As they look inside a JSON string, too.
        found |= {json.dumps(value)[1:-1] for value in found}
        values = sorted(found, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None

    def clean(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub("[secret]", text)
        return self._SHAPES.sub("[secret]", text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, extras, exception."""

    def __init__(self, sanitizer: Sanitizer) -> None:
        super().__init__()
        self._sanitizer = sanitizer

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": message(record),
        }
        if request_id := current.request_id.get():
            line["request_id"] = request_id
        # An extra named `time` or `level` does not replace ours.
        taken = _STANDARD | (line.keys() - {"request_id"})
        line |= {k: v for k, v in record.__dict__.items() if k not in taken}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        if record.stack_info:
            line["stack"] = record.stack_info
        return self._sanitizer.clean(_json(line))


class ConsoleFormatter(logging.Formatter):
    """A line for a person: time, level, logger, message, then a traceback if there is one."""

    def __init__(self, sanitizer: Sanitizer) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s")
        self._sanitizer = sanitizer

    def format(self, record: logging.LogRecord) -> str:
        try:
            text = super().format(record)
        except (TypeError, ValueError, KeyError):  # arguments that do not fit: see message()
            text = f"{record.levelname} {record.name}: {message(record)}"
        if request_id := getattr(record, "request_id", None) or current.request_id.get():
            first, newline, rest = text.partition("\n")
            text = f"{first} [{request_id}]{newline}{rest}"
        return self._sanitizer.clean(text)


def message(record: logging.LogRecord) -> str:
    """The finished message, whatever the arguments: an exception here would make `logging` print
    the raw record, secrets included, to stderr."""
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


def config(
    *, level: str, log_format: str, log_file: str | None, known_secrets: Iterable[str]
) -> dict[str, Any]:
    """A ``logging.config.dictConfig`` for gunicorn's ``logconfig_dict``: one handler for all.

    ``log_file`` None means stderr. gunicorn's own loggers go the same way as ours.
    """
    sanitizer = Sanitizer(known_secrets)
    formatter = JsonFormatter if log_format == "json" else ConsoleFormatter
    handler: dict[str, Any] = {"formatter": "proxy"}
    if log_file is None:
        handler |= {"class": "logging.StreamHandler", "stream": sys.stderr}
    else:
        # Reopens when an outside rotation has moved the file; several workers may append.
        handler |= {"class": "logging.handlers.WatchedFileHandler", "filename": log_file}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"proxy": {"()": formatter, "sanitizer": sanitizer}},
        "handlers": {"proxy": handler},
        "root": {"level": level.upper(), "handlers": ["proxy"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "ERROR", "handlers": [], "propagate": True},
        },
    }
