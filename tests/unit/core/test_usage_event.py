"""The line of one event: field names and their order are public."""

import json
import re

import pytest

from proxy.core.usage_event import CacheFacts, RoutingFacts
from tests.support.event_samples import event


def test_the_line_of_the_contract() -> None:
    line = event(
        "req-1",
        event_id="e1",
        project_id="p1",
        token_id="t1",
        token="sk-JHjW...fQIZ",
        upstream_ms=148.911,
        ttfb_ms=149.004,
        bytes_in=120,
        bytes_out=730,
        usage_source="reported",
        metadata={"model": "gpt-4", "total_tokens": 21},
    ).line()
    assert line == (
        b'{"event_id":"e1","timestamp":"2026-05-20T00:03:00.123Z","request_id":"req-1",'
        b'"project_id":"p1","token_id":"t1","token":"sk-JHjW...fQIZ",'
        b'"endpoint":"/v1/chat/completions","method":"POST","status_code":200,'
        b'"outcome":"completed","error_code":null,"stream":false,"duration_ms":150.24,'
        b'"upstream_ms":148.91,"ttfb_ms":149.0,"bytes_in":120,"bytes_out":730,'
        b'"client_ip":"192.0.2.1","usage_source":"reported",'
        b'"metadata":{"model":"gpt-4","total_tokens":21},"provider":null}\n'
    )


def test_the_line_of_a_routed_request() -> None:
    attempts = (
        {
            "provider": "a",
            "model": "m",
            "key_id": "k",
            "status": 503,
            "ms": 1.0,
            "reason": "server",
        },
        {"provider": "b", "model": "n", "key_id": "l", "status": 200, "ms": 2.5, "reason": None},
    )
    line = json.loads(event(routing=RoutingFacts("b", "n", "alias", attempts)).line())
    assert (line["provider"], line["upstream_model"]) == ("b", "n")
    assert line["attempts"] == list(attempts)
    assert "alias" not in line
    own_key = json.loads(event(routing=RoutingFacts(None, None, "", ())).line())
    assert own_key["provider"] is None
    assert "attempts" not in own_key


def test_the_line_of_a_cached_request() -> None:
    facts = CacheFacts("hit", 9, 12)
    line = event(
        outcome="cached",
        usage_source="cached",
        event_id="e1",
        metadata=facts.metadata("gpt-4"),
        cache=facts,
    ).line()
    assert line.endswith(
        b'"usage_source":"cached","metadata":{"model":"gpt-4","prompt_tokens":0,'
        b'"completion_tokens":0,"total_tokens":0},"provider":null,"cache":"hit",'
        b'"saved_prompt_tokens":9,"saved_completion_tokens":12}\n'
    )


def test_a_cached_response_without_usage_saves_nothing_that_is_known() -> None:
    facts = CacheFacts("collapsed")
    line = json.loads(event(metadata=facts.metadata(None), cache=facts).line())
    assert (line["cache"], line["metadata"]) == ("collapsed", {})
    assert not {"saved_prompt_tokens", "saved_completion_tokens"} & line.keys()


def test_one_side_saved() -> None:
    facts = CacheFacts("replayed", saved_prompt_tokens=0)
    assert facts.members() == {"cache": "replayed", "saved_prompt_tokens": 0}
    assert facts.metadata(None)["total_tokens"] == 0


def test_what_is_not_known_is_null() -> None:
    line = json.loads(event().line())
    unknown = {name for name, value in line.items() if value is None}
    assert unknown == {
        "project_id",
        "token_id",
        "token",
        "error_code",
        "upstream_ms",
        "ttfb_ms",
        "provider",
    }
    assert (line["usage_source"], line["metadata"], line["stream"]) == ("none", {}, False)


@pytest.mark.parametrize("started", [0.0, 1.0005, 1_779_235_380.9999996])
def test_milliseconds_are_always_three_digits(started: float) -> None:
    timestamp = json.loads(event(started=started).line())["timestamp"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp)


def test_an_event_is_one_line_whatever_is_in_it() -> None:
    line = event(endpoint='/v1/a"b\\c\r\n\u2028ÿ').line()
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert json.loads(line)["endpoint"] == '/v1/a"b\\c\r\n\u2028ÿ'


def test_ids_differ() -> None:
    ids = {event().event_id for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in ids)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"method": "POST"}, False),
        ({"status_code": 101}, False),
        ({"project_id": None}, False),
        ({"metadata": {"total_tokens": 1}}, False),
    ],
)
def test_what_reads_a_stored_response(changes: dict[str, object], expected: bool) -> None:
    fields = {"method": "GET", "status_code": 200, "project_id": "p1"}
    assert event(**fields | {"metadata": {"response_id": "r"}} | changes).is_read is expected
