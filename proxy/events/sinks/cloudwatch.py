"""Events to Amazon CloudWatch Logs, through watchtower and boto3.

Note: watchtower tries a batch five times and then drops it with a warning, so its caller cannot
know what was accepted. Here watchtower only creates group and stream and makes the events. This
module puts the batches, and :meth:`CloudWatchSink.write` returns only when the service has
responded to each of them. See docs/decisions/0005-boto3-delivers-what-watchtower-formats.md.
"""

import logging
import os
import platform
import time
from collections.abc import Sequence
from typing import Any, Final

import boto3
import watchtower
from botocore.config import Config

from proxy.core.usage_event import event_time
from proxy.events.dead_letters import PoisonIsolator, Refused
from proxy.events.sinks.base import DeadLetters, SinkOptions
from proxy.events.truncate import truncate

_log = logging.getLogger(__name__)

# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html
_BATCH_BYTES: Final = 1_048_576
_OVERHEAD: Final = 26  # of each event
_BATCH_EVENTS: Final = 10_000
_BATCH_SPAN: Final = 24 * 3600 * 1000  # milliseconds
#: Bytes of a message. watchtower counts the overhead twice before it cuts, and would cut the JSON.
_EVENT_BYTES: Final = _BATCH_BYTES - 2 * _OVERHEAD

#: At info and debug they log every call, and the source of the credentials.
_CHATTY: Final = ("boto3", "botocore", "urllib3")

_Event = dict[str, Any]


class CloudWatchSink:
    """Puts events to `stream` of `group`; both are created when they are missing.

    ``{hostname}`` and ``{pid}`` in ``stream`` are those of this process. Credentials and endpoint
    are what boto3 finds in the environment, and so is the region, ``AWS_REGION`` included.
    """

    @classmethod
    def from_options(cls, options: SinkOptions, dead: DeadLetters) -> "CloudWatchSink":
        return cls(options.cloudwatch_log_group, options.cloudwatch_log_stream, dead)

    def __init__(self, group: str, stream: str, dead: DeadLetters) -> None:
        self._group = group
        name = stream.replace("{hostname}", platform.node()).replace("{pid}", str(os.getpid()))
        self._stream = name.replace(":", "-").replace("*", "-")
        self._dead = dead
        self._isolator = PoisonIsolator(self._put, dead)
        self._handler: _Handler | None = None

    def write(self, batch: Sequence[bytes]) -> None:
        """Raises botocore's errors; a part of the batch may then have been accepted."""
        self._isolator.write(batch)

    def close(self) -> None:
        if self._handler is not None:
            self._handler.close()
            self._handler.cwl_client.close()
            self._handler = None
        self._dead.close()

    def _put(self, batch: Sequence[bytes]) -> None:
        if self._handler is None:
            self._handler = _Handler(self._group, self._stream)
        for events in _within_limits(self._handler.events(batch)):
            response = self._handler.put(events)
            self._note_rejected(events, response.get("rejectedLogEventsInfo", {}))

    def _note_rejected(self, events: list[_Event], info: dict[str, int]) -> None:
        """Add the events that `info` rejects to the dead letters. The service accepted the rest."""
        # The ends are exclusive. Where one is present, it rejects at least one event.
        ends = [
            info[name]
            for name in ("tooOldLogEventEndIndex", "expiredLogEventEndIndex")
            if name in info
        ]
        old = events[: max(1, *ends)] if ends else []
        new = (
            events[info["tooNewLogEventStartIndex"] :] if "tooNewLogEventStartIndex" in info else []
        )
        if rejected := old + new:
            self._dead.keep([event["message"].encode() for event in rejected], "too old or too new")


class _Handler(watchtower.CloudWatchLogHandler):
    """watchtower's handler, used to make events. It sends none of them itself."""

    def __init__(self, group: str, stream: str) -> None:
        # One attempt each: the caller retries, and counts.
        config = Config(
            connect_timeout=5,
            read_timeout=30,
            retries={"total_max_attempts": 1},
            # boto3's own validation would raise a third kind of error for a bad event.
            parameter_validation=False,
        )
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        # Containers have it, and the other SDKs read it. boto3 itself reads AWS_DEFAULT_REGION.
        region = os.environ.get("AWS_REGION") or None
        self._made: list[_Event] = []
        super().__init__(
            log_group_name=group,
            log_stream_name=stream.replace("{", "{{").replace("}", "}}"),
            use_queues=False,
            max_message_size=_BATCH_BYTES,
            boto3_client=boto3.client("logs", region_name=region, config=config),
            # Created when it turns out to be missing: looking for it needs more permissions.
            create_log_group=False,
        )
        self._stream = stream

    def events(self, lines: Sequence[bytes]) -> list[_Event]:
        """The events of `lines` for put_log_events, in order of time."""
        for line in lines:
            record = logging.makeLogRecord(
                {"msg": truncate(line.rstrip(b"\n"), _EVENT_BYTES).decode("utf-8", "replace")}
            )
            record.created = event_time(line) or time.time()
            self.emit(record)
        made, self._made = self._made, []
        return sorted(made, key=lambda event: event["timestamp"])

    def put(self, events: list[_Event]) -> dict[str, Any]:
        """Returns the service's response. Raises botocore's errors, or Refused for a bad batch."""
        try:
            return self._put_once(events)
        except self.cwl_client.exceptions.ResourceNotFoundException:
            self._create()
            return self._put_once(events)

    def _put_once(self, events: list[_Event]) -> dict[str, Any]:
        errors = self.cwl_client.exceptions
        try:
            response: dict[str, Any] = self.cwl_client.put_log_events(
                logGroupName=self.log_group_name, logStreamName=self._stream, logEvents=events
            )
        except errors.InvalidParameterException as error:
            raise Refused(str(error)) from error
        except errors.DataAlreadyAcceptedException:
            return {}
        return response

    def _create(self) -> None:
        names = {"logGroupName": self.log_group_name, "logStreamName": self._stream}
        try:
            self._idempotent_call("create_log_stream", **names)
        except self.cwl_client.exceptions.ResourceNotFoundException:
            self._ensure_log_group()
            self._idempotent_call("create_log_stream", **names)

    def _submit_batch(
        self, batch: list[_Event], log_stream_name: str, max_retries: int = 5
    ) -> None:
        self._made.extend(batch)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Called in an except block. The default prints the error and drops the event."""
        raise


def _within_limits(events: list[_Event]) -> list[list[_Event]]:
    """Split `events`, which are in order of time, into batches that the service accepts."""
    batches: list[list[_Event]] = []
    size = 0
    for event in events:
        bytes_ = len(event["message"].encode()) + _OVERHEAD
        batch = batches[-1] if batches else []
        if (
            not batch
            or size + bytes_ > _BATCH_BYTES
            or len(batch) >= _BATCH_EVENTS
            or event["timestamp"] - batch[0]["timestamp"] >= _BATCH_SPAN
        ):
            batches.append(batch := [])
            size = 0
        batch.append(event)
        size += bytes_
    return batches
