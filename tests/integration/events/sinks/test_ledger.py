"""The ledger's sink (``proxy/events/sinks/ledger.py``): what an event adds, exactly once."""

import bisect
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from proxy.core.errors import StoreError
from proxy.core.usage_event import CacheFacts, RoutingFacts, UsageEvent
from proxy.events.sinks import ledger as module
from proxy.events.sinks.ledger import Entry, LedgerSink, Mark, Position, entry_from, mark_of
from proxy.store.database import Database
from proxy.store.migrate import Migrator
from proxy.store.usage import UsageLedger

PROJECT, TOKEN = "0b3a7c5e-0000-4000-8000-000000000001", "01a1fcaf-c19f-72c2-91e6-6f230ccf0676"
MAY = datetime(2026, 5, 20, 10, 59, 59, 999000, tzinfo=UTC)
COUNTS = {"prompt_tokens": 9, "completion_tokens": 12, "cached_tokens": 4, "reasoning_tokens": 2}


def line(**fields: Any) -> bytes:
    """The line of an event, as the server writes it."""
    made: dict[str, Any] = {
        "started": MAY.timestamp(),
        "request_id": "r",
        "endpoint": "/v1/chat/completions",
        "method": "POST",
        "client_ip": "::1",
        "status_code": 200,
        "outcome": "completed",
        "duration_ms": 1.0,
        "project_id": PROJECT,
        "token_id": TOKEN,
        "metadata": {"model": "gpt-4", **COUNTS},
    }
    return UsageEvent(**made | fields).line()


def entry(**fields: Any) -> Entry | None:
    return entry_from(orjson.loads(line(**fields)))


class TestEntry:
    def test_the_entry_of_a_response(self) -> None:
        hour = datetime(2026, 5, 20, 10, tzinfo=UTC)
        assert entry() == (hour, PROJECT, TOKEN, "gpt-4", 1, 0, 9, 12, 4, 2, 0, 0, 0, 0, 0)

    def test_estimates_are_kept_apart_from_reported_usage(self) -> None:
        estimate = {"estimated_prompt_tokens": 30, "estimated_completion_tokens": 40}
        found = entry(usage_source="estimated", estimate_method="bytes", metadata=estimate)
        assert found is not None
        assert found[4:] == (1, 0, 0, 0, 0, 0, 30, 40, 0, 0, 0)

    @pytest.mark.parametrize(("status", "errors"), [(200, 0), (400, 1)])
    def test_a_hit_is_a_request_that_used_nothing(self, status: int, errors: int) -> None:
        facts = CacheFacts("hit", 9, 12)
        found = entry(
            outcome="cached",
            status_code=status,
            usage_source="cached",
            metadata=facts.metadata("gpt-4"),
            cache=facts,
        )
        assert found is not None
        assert found[4:] == (1, errors, 0, 0, 0, 0, 0, 0, 1, 9, 12)

    def test_a_hit_without_usage_saved_nothing_that_is_known(self) -> None:
        found = entry(outcome="cached", metadata={}, cache=CacheFacts("collapsed"))
        assert found is not None
        assert found[4:] == (1, *[0] * 7, 1, 0, 0)

    def test_a_superseded_attempt_adds_tokens_and_no_request(self) -> None:
        found = entry(outcome="superseded", status_code=200)
        assert found is not None
        assert found[3:] == ("gpt-4", 0, 0, 9, 12, 4, 2, 0, 0, 0, 0, 0)

    @pytest.mark.parametrize("status", [None, 200, 504])
    def test_a_superseded_attempt_without_usage_has_no_entry(self, status: int | None) -> None:
        assert entry(outcome="superseded", status_code=status, metadata={}) is None

    @pytest.mark.parametrize("outcome", ["completed", "superseded"])
    def test_a_response_that_names_no_model_has_that_of_its_target(self, outcome: str) -> None:
        facts = RoutingFacts("first", "model-of-first", "alias", ())
        found = entry(outcome=outcome, metadata=COUNTS, routing=facts)
        assert found is not None
        assert found[3] == "model-of-first"
        named = entry(outcome=outcome, routing=facts)
        assert named is not None
        assert named[3] == "gpt-4"

    @pytest.mark.parametrize("unknown", [{"project_id": None}, {"token_id": None}])
    def test_an_event_without_a_project_has_no_entry(self, unknown: dict[str, None]) -> None:
        assert entry(**unknown, outcome="rejected", status_code=401) is None

    @pytest.mark.parametrize(
        ("outcome", "status", "errors"),
        [
            ("completed", 200, 0),
            ("completed", 302, 0),
            ("completed", 400, 1),
            ("completed", 500, 1),
            ("client_gone", 200, 0),
            ("client_gone", 499, 0),
            ("aborted", 200, 1),
            ("aborted", 502, 1),
            ("rejected", 429, 1),
            ("unknown", None, 1),
        ],
    )
    def test_errors(self, outcome: str, status: int | None, errors: int) -> None:
        found = entry(outcome=outcome, status_code=status)
        assert found is not None
        assert found[4:6] == (1, errors)

    @pytest.mark.parametrize(
        ("reported", "kept"),
        [
            (None, ""),
            (7, ""),
            ("", ""),
            ("gpt-4 ", "gpt-4"),
            ("   ", ""),
            ("a\x00b\x1b[31m\n", "a\ufffdb\ufffd[31m\ufffd"),
            ("☃ 🦫", "☃ 🦫"),
            ("x" * 300, "x" * 255),
            ("y" * 254 + "  z", "y" * 254),
        ],
    )
    def test_models(self, reported: object, kept: str) -> None:
        found = entry(metadata={"model": reported})
        assert found is not None
        assert found[3] == kept

    def test_a_refusal_names_no_model(self) -> None:
        """Otherwise a client could make as many rows as there are names."""
        found = entry(status_code=404, metadata={"model": "whatever-the-client-sent"})
        assert found is not None
        assert found[3:6] == ("", 1, 1)

    @pytest.mark.parametrize("count", [-1, True, 1.5, "9", None, 2**31, []])
    def test_invalid_counts_are_zero(self, count: object) -> None:
        found = entry(metadata={**COUNTS, "prompt_tokens": count})
        assert found is not None
        assert found[6:] == (0, 12, 4, 2, 0, 0, 0, 0, 0)


class TestMark:
    ENDED = int(MAY.timestamp() * 1e6) + 1000

    def mark(self, **fields: Any) -> Mark:
        fields.setdefault("event_id", "e" * 32)
        return mark_of(orjson.loads(line(**fields)))

    def test_the_mark_of_a_generation(self) -> None:
        metadata = {"response_id": "resp_1", **COUNTS}
        assert self.mark(metadata=metadata) == ("e" * 32, "resp_1", False, self.ENDED, 21)

    @pytest.mark.parametrize(
        ("method", "status", "is_read"),
        [("GET", 200, True), ("GET", 101, False), ("POST", 200, False), ("DELETE", 200, False)],
    )
    def test_which_events_are_reads(self, method: str, status: int, is_read: bool) -> None:
        assert self.mark(method=method, status_code=status)[2] is is_read

    @pytest.mark.parametrize(
        ("metadata", "response", "tokens"),
        [
            ({"response_id": "resp_1"}, None, 0),  # a background response without usage
            (COUNTS, None, 21),
            ({"response_id": "", **COUNTS}, None, 21),
            ({"response_id": 7, **COUNTS}, None, 21),
            ({"response_id": "r", "total_tokens": 30, **COUNTS}, "r", 30),
            ({"response_id": "r", "total_tokens": 0}, "r", 0),
            ({"response_id": "r", "completion_tokens": 5}, "r", 5),
            ({"response_id": "r", "estimated_prompt_tokens": 5}, None, 0),
        ],
    )
    def test_which_response_is_counted(
        self, metadata: dict[str, object], response: str | None, tokens: int
    ) -> None:
        found = self.mark(metadata=metadata)
        assert (found[1], found[4]) == (response, tokens)

    def test_the_event_of_a_killed_worker_has_no_duration(self) -> None:
        assert self.mark(duration_ms=None, status_code=None)[3] == self.ENDED - 1000

    @pytest.mark.parametrize("event_id", [None, 7, "e" * 33, ""])
    def test_an_event_without_an_id_is_refused(self, event_id: object) -> None:
        with pytest.raises((ValueError, TypeError)):
            self.mark(event_id=event_id)


class Recorder:
    """A ledger in memory that can fail before or after it has added a batch."""

    def __init__(self) -> None:
        self.at: dict[str, Position] = {}
        self.requests = 0
        self.asked = 0
        self.fail_before = self.fail_after = False

    def position(self, source: str) -> Position | None:
        self.asked += 1
        return self.at.get(source)

    def apply(
        self,
        source: str,
        after: Position | None,
        upto: Position,
        entries: Sequence[Entry],
        marks: Sequence[Mark],
    ) -> bool:
        assert len(entries) == len(marks)
        if self.fail_before:
            raise StoreError
        if self.at.get(source) != after:
            return False
        self.at[source] = upto
        self.requests += sum(entry[4] for entry in entries)
        if self.fail_after:
            raise StoreError
        return True


class Spool:
    """The lines of one writer, in the order of its segments."""

    def __init__(self, count: int, segments: Sequence[int] = (1,)) -> None:
        self.lines: list[bytes] = []
        self.ends: list[Position] = []
        for segment in segments:
            offset = 0
            for _ in range(count):
                self.lines.append(line())
                offset += len(self.lines[-1])
                self.ends.append((segment, offset))

    def __len__(self) -> int:
        return len(self.lines)

    def read(self, start: Position, count: int) -> tuple[Position, Position, list[bytes]]:
        """The lines that a shipper reads from ``start`` on."""
        first = bisect.bisect_right(self.ends, start)
        lines = self.lines[first : first + count]
        return start, self.ends[first + len(lines) - 1] if lines else start, lines


START = (0, 0)


def test_invented_names_of_one_token_make_few_rows() -> None:
    """The other names are added up under one."""
    added: list[Entry] = []

    class Rows(Recorder):
        def apply(self, *args: Any) -> bool:
            added.extend(args[3])
            return super().apply(*args)

    lines = [line(metadata={"model": f"made-up-{number}", **COUNTS}) for number in range(500)]
    LedgerSink(Rows()).write_from("w", START, (1, 1), lines)
    models = [found[3] for found in added]
    assert len(models) == 500
    assert len(set(models)) == 33
    assert models.count("other") == 500 - 32


@pytest.fixture
def ledger() -> Recorder:
    return Recorder()


@pytest.fixture
def sink(ledger: Recorder) -> LedgerSink:
    return LedgerSink(ledger)


class TestOnce:
    def test_the_position_is_queried_once_for_many_batches(
        self, sink: LedgerSink, ledger: Recorder
    ) -> None:
        spool, position = Spool(3, segments=(1, 2, 7)), START
        for count in (2, 2, 4, 9):
            position = sink.write_from("w", *spool.read(position, count))
        assert position == ledger.at["w"] == spool.ends[-1]
        assert (ledger.requests, ledger.asked) == (9, 1)

    @pytest.mark.parametrize(("first", "count"), [(0, 2), (0, 4), (0, 6), (2, 4), (3, 1)])
    def test_earlier_lines_are_not_added_and_the_next_position_is_returned(
        self, sink: LedgerSink, ledger: Recorder, first: int, count: int
    ) -> None:
        spool = Spool(6)
        known = sink.write_from("w", *spool.read(START, 4))
        start = spool.ends[first - 1] if first else START
        for again in (sink, LedgerSink(ledger)):
            assert again.write_from("w", *spool.read(start, count)) == known
        assert ledger.requests == 4
        assert sink.write_from("w", *spool.read(known, 9)) == spool.ends[-1]
        assert ledger.requests == 6

    def test_lines_that_the_spool_dropped_are_passed_over(
        self, sink: LedgerSink, ledger: Recorder
    ) -> None:
        spool = Spool(5)
        sink.write_from("w", *spool.read(START, 1))
        assert sink.write_from("w", *spool.read(spool.ends[2], 9)) == spool.ends[-1]
        assert ledger.requests == 3

    def test_two_processes_add_each_line_once(self, sink: LedgerSink, ledger: Recorder) -> None:
        """One process continues from a position that the other has passed."""
        spool, late = Spool(9), LedgerSink(ledger)
        known = late.write_from("w", *spool.read(START, 3))
        further = sink.write_from("w", *spool.read(known, 3))
        assert late.write_from("w", *spool.read(known, 6)) == further
        assert late.write_from("w", *spool.read(further, 6)) == spool.ends[-1]
        assert ledger.requests == 9

    def test_a_failed_batch_is_added_later(self, sink: LedgerSink, ledger: Recorder) -> None:
        spool = Spool(4)
        ledger.fail_before = True
        with pytest.raises(StoreError):
            sink.write_from("w", *spool.read(START, 3))
        ledger.fail_before = False
        sink.write_from("w", *spool.read(START, 4))
        assert ledger.requests == 4

    def test_a_commit_whose_response_was_lost_is_not_repeated(
        self, sink: LedgerSink, ledger: Recorder
    ) -> None:
        spool = Spool(4)
        known = sink.write_from("w", *spool.read(START, 1))
        ledger.fail_after = True
        with pytest.raises(StoreError):
            sink.write_from("w", *spool.read(known, 2))
        ledger.fail_after = False
        assert sink.write_from("w", *spool.read(known, 3)) == spool.ends[2]
        sink.write_from("w", *spool.read(spool.ends[2], 3))
        assert ledger.requests == 4

    def test_an_event_from_another_spool_is_recognised_by_its_id(
        self, sink: LedgerSink, ledger: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A killed worker had spooled the event, and its slot has it once more."""
        monkeypatch.setattr(module, "_MAX_REMEMBERED_IDS", 3)
        lines = Spool(5).lines
        sink.write_from("dead", START, (1, 50), lines[:4])
        sink.write_from("heir", START, (1, 40), [lines[3], lines[4], lines[4]])
        assert ledger.requests == 5
        sink.write_from("heir", (1, 40), (1, 80), [lines[0]])  # too long ago
        assert ledger.requests == 6

    def test_events_of_a_failed_batch_are_not_remembered(
        self, sink: LedgerSink, ledger: Recorder
    ) -> None:
        spool = Spool(2)
        ledger.fail_before = True
        with pytest.raises(StoreError):
            sink.write_from("w", *spool.read(START, 2))
        ledger.fail_before = False
        sink.write_from("w", *spool.read(START, 2))
        assert ledger.requests == 2

    @pytest.mark.parametrize(
        "bad",
        [
            b"\x00\x00\n",
            b"",
            b"{}\n",
            b"[]\n",
            b'"text"\n',
            b"7\n",
            line(project_id="not-a-uuid"),
            line(project_id=7),
            line(metadata=None),
            line(metadata=[]),
            line().replace(b"2026-05-20T10", b"2026-13-45T99"),
            line().replace(b'"2026', b'7,"x":"2026'),
            line().replace(b'"metadata"', b'"duration_ms":1e308,"metadata"'),
        ],
    )
    def test_a_line_that_is_no_event_blocks_nothing(
        self, sink: LedgerSink, ledger: Recorder, bad: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink.write_from("w", START, (1, 40), [line(), bad, bad, line()])
        assert (ledger.requests, sink.unreadable) == (2, 2)
        assert len(caplog.records) == 1


def test_audit_entries_are_skipped(ledger: Recorder, sink: LedgerSink) -> None:
    audit = b'{"event_id":"e","event":"audit","project_id":"p","token_id":"t"}\n'
    assert sink.write_from("w", START, (1, 40), [audit, line(), audit]) == (1, 40)
    assert (ledger.requests, sink.unreadable, ledger.at["w"]) == (1, 0, (1, 40))


def test_kills_at_random_moments_leave_each_line_once(database_url: str) -> None:
    """Shippers start and are killed, lose their offsets, and read batches of any size."""
    database = Database.from_url(database_url)
    Migrator(database).migrate()
    ledger = UsageLedger(database)
    chance = random.Random(7)
    spools = {source: Spool(50, segments=(1, 2, 5)) for source in ("a.1", "a.2", "b.1")}
    remembered: dict[str, Position] = dict.fromkeys(spools, START)
    sink = LedgerSink(ledger)
    while any(remembered[source] < spool.ends[-1] for source, spool in spools.items()):
        if chance.random() < 0.3:
            sink = LedgerSink(ledger)
        source = chance.choice(list(spools))
        batch = spools[source].read(remembered[source], chance.randrange(1, 30))
        position = sink.write_from(source, *batch)
        if chance.random() < 0.5:  # otherwise it is killed before the offset is written
            remembered[source] = position
    (total,) = ledger.sums(MAY.replace(hour=0), MAY, ["project"], limit=10)
    assert (total.requests, total.prompt_tokens) == (450, 450 * 9)
    database.close()
