"""The failure log (``proxy/runtime/failure_log.py``)."""

import logging

import pytest

from proxy.core.errors import StoreError
from proxy.runtime.failure_log import FailureLog

_log = logging.getLogger(__name__)


def test_the_first_failure_and_the_recovery_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(_log.log, "sink", "fails, 50% are kept", level=logging.ERROR)
    failures.worked()
    for _ in range(2):
        assert not failures.failing
        assert failures.failed(OSError("no space"))
        assert failures.failing
        assert not failures.failed(OSError("still none"))
        failures.worked("after 2 errors")
        failures.worked()
    line = ("ERROR", "sink: fails, 50% are kept: OSError: no space")
    again = ("WARNING", "sink: works again, after 2 errors")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [line, again] * 2
    assert not any(record.exc_info for record in caplog.records)


def test_the_cause_is_logged_in_place_of_the_text_for_clients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = FailureLog(_log.log, "poller", "fails", "works once more")
    error = StoreError()
    error.__cause__ = TimeoutError()
    failures.failed(error)
    failures.worked()
    assert caplog.messages == ["poller: fails: TimeoutError: ", "poller: works once more"]


def test_a_defect_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(_log.log, "counter", "fails")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        failures.failed(error, traceback=True)
    assert "Traceback" in caplog.text
