"""proxy/events/sinks/ledger.py: what an event adds, and that it adds it once, however it comes."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from proxy.errors import StoreError
from proxy.events.event import UsageEvent
from proxy.events.sinks.ledger import Entry, LedgerSink, Position, entry_from
from proxy.store.database import Database
from proxy.store.migrate import Migrator
from proxy.store.usage import UsageLedger

PROJECT, TOKEN = "0b3a7c5e-0000-4000-8000-000000000001", "01a1fcaf-c19f-72c2-91e6-6f230ccf0676"
MAY = datetime(2026, 5, 20, 10, 59, 59, 999000, tzinfo=UTC)
COUNTS = {"prompt_tokens": 9, "completion_tokens": 12, "cached_tokens": 4, "reasoning_tokens": 2}


def line(**fields: Any) -> bytes:
    """As the server writes it."""
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
    def test_of_an_answer(self) -> None:
        hour = datetime(2026, 5, 20, 10, tzinfo=UTC)
        assert entry() == (hour, PROJECT, TOKEN, "gpt-4", 1, 0, 9, 12, 4, 2)

    @pytest.mark.parametrize("unknown", [{"project_id": None}, {"token_id": None}])
    def test_nobody_used_anything(self, unknown: dict[str, None]) -> None:
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
        ("told", "kept"),
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
    def test_models(self, told: object, kept: str) -> None:
        found = entry(metadata={"model": told})
        assert found is not None
        assert found[3] == kept

    def test_a_refusal_names_no_model(self) -> None:
        """Else whoever has a token could make as many rows as there are names."""
        found = entry(status_code=404, metadata={"model": "whatever-the-client-sent"})
        assert found is not None
        assert found[3:6] == ("", 1, 1)

    @pytest.mark.parametrize("count", [-1, True, 1.5, "9", None, 2**31, []])
    def test_what_is_no_count_counts_nothing(self, count: object) -> None:
        found = entry(metadata={**COUNTS, "prompt_tokens": count})
        assert found is not None
        assert found[6:] == (0, 12, 4, 2)


class Recorder:
    """A ledger in memory, which can fail before or after it has taken something."""

    def __init__(self) -> None:
        self.at: dict[str, Position] = {}
        self.requests = 0
        self.asked = 0
        self.fail_before = self.fail_after = False

    def position(self, source: str) -> Position | None:
        self.asked += 1
        return self.at.get(source)

    def apply(
        self, source: str, after: Position | None, upto: Position, entries: Sequence[Entry]
    ) -> bool:
        if self.fail_before:
            raise StoreError
        if self.at.get(source) != after:
            return False
        self.at[source] = upto
        self.requests += sum(entry[4] for entry in entries)
        if self.fail_after:
            raise StoreError
        return True


def placed(count: int, segment: int = 1, start: int = 0) -> list[tuple[Position, bytes]]:
    """Lines as they stand in a spool, one behind the other."""
    one = line()
    return [((segment, start + len(one) * (number + 1)), one) for number in range(count)]


@pytest.fixture
def ledger() -> Recorder:
    return Recorder()


@pytest.fixture
def sink(ledger: Recorder) -> LedgerSink:
    return LedgerSink(ledger)


class TestOnce:
    def test_batch_by_batch_the_position_is_asked_for_once(
        self, sink: LedgerSink, ledger: Recorder
    ) -> None:
        lines = placed(9)
        for start in range(0, 9, 3):
            sink.write_from("w", lines[start : start + 3])
        assert (ledger.requests, ledger.asked) == (9, 1)
        assert ledger.at["w"] == lines[-1][0]

    def test_what_came_before_is_left_out(self, sink: LedgerSink, ledger: Recorder) -> None:
        lines = placed(6)
        sink.write_from("w", lines[:4])
        for again in (lines[:4], lines[1:3], lines[2:6], lines, []):
            sink.write_from("w", again)
        assert ledger.requests == 6

    def test_over_segments_and_gaps(self, sink: LedgerSink, ledger: Recorder) -> None:
        sink.write_from("w", [*placed(2, segment=1, start=500), *placed(2, segment=2)])
        sink.write_from("w", placed(2, segment=7, start=10))
        sink.write_from("w", placed(2, segment=1, start=500))
        assert ledger.requests == 6

    def test_a_new_process_goes_on_where_the_old_one_stopped(
        self, sink: LedgerSink, ledger: Recorder
    ) -> None:
        sink.write_from("w", placed(5))
        LedgerSink(ledger).write_from("w", placed(8))
        sink.write_from("w", placed(9))  # the old one, late: it believes to be at 5
        assert ledger.requests == 9

    def test_after_a_failure_nothing_is_lost(self, sink: LedgerSink, ledger: Recorder) -> None:
        ledger.fail_before = True
        with pytest.raises(StoreError):
            sink.write_from("w", placed(3))
        ledger.fail_before = False
        sink.write_from("w", placed(4))
        assert ledger.requests == 4

    def test_after_a_commit_whose_answer_was_lost_nothing_is_twice(
        self, sink: LedgerSink, ledger: Recorder
    ) -> None:
        sink.write_from("w", placed(1))
        ledger.fail_after = True
        with pytest.raises(StoreError):
            sink.write_from("w", placed(3))
        ledger.fail_after = False
        sink.write_from("w", placed(4))
        assert ledger.requests == 4

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
        ],
    )
    def test_what_is_no_event_holds_nothing_up(
        self, sink: LedgerSink, ledger: Recorder, bad: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        good = line()
        sink.write_from("w", [((1, 10), good), ((1, 20), bad), ((1, 30), bad), ((1, 40), good)])
        assert (ledger.requests, sink.unreadable) == (2, 2)
        assert len(caplog.records) == 1


def test_however_it_is_cut_and_repeated_the_database_has_each_line_once(database_url: str) -> None:
    """Shippers start where the last of them had got to, or before, and cut batches as they like."""
    database = Database.from_url(database_url)
    Migrator(database).migrate()
    ledger = UsageLedger(database)
    chance = random.Random(7)
    spools = {
        source: [*placed(60), *placed(60, segment=2), *placed(30, segment=5)]
        for source in ("node-a.1", "node-a.2", "node-b.1")
    }
    done = dict.fromkeys(spools, 0)
    sink = LedgerSink(ledger)
    while any(done[source] < len(lines) for source, lines in spools.items()):
        if chance.random() < 0.2:
            sink = LedgerSink(ledger)
        source = chance.choice(list(spools))
        start = max(0, done[source] - chance.randrange(40))
        end = min(len(spools[source]), start + chance.randrange(1, 60))
        sink.write_from(source, spools[source][start:end])
        done[source] = max(done[source], end)
    (total,) = ledger.sums(MAY.replace(hour=0), MAY, ["project"], limit=10)
    assert (total.requests, total.prompt_tokens) == (450, 450 * 9)
    database.close()
