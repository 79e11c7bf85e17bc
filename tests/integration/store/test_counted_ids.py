"""Events that count once (``proxy/store/counted_ids.py``), on every database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
import pytest

from proxy.crypto.cipher import Cipher
from proxy.crypto.tokens import new_token_id
from proxy.store import counted_ids as counted_module
from proxy.store import usage
from proxy.store.counted_ids import CountedIds, Mark
from proxy.store.database import Database, Session
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens
from proxy.store.usage import Entry, UsageLedger

HOUR = datetime(2026, 5, 20, 10, tzinfo=UTC)
P1, P2 = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
WIDTH = usage._WIDTH
TOKEN = "00000000-0000-7000-8000-000000000001"


class Node:
    """A node: its shipper adds the events of its workers."""

    numbers = iter(range(1, 10**6))

    def __init__(self, url: str, days: int = 7) -> None:
        self.database = Database.from_url(url)
        self.ledger = UsageLedger(self.database, counted_ids_days=days)

    def add(self, *marked: tuple[Entry, Mark]) -> None:
        source = f"source-{next(self.numbers)}"
        entries, marks = [entry for entry, _ in marked], [mark for _, mark in marked]
        assert self.ledger.apply(source, None, (1, 1), entries, marks)


@pytest.fixture
def node(migrated_url: str) -> Iterator[Node]:
    node = Node(migrated_url)
    Migrator(node.database).migrate()
    yield node
    node.database.close()


def event(
    response: str | None = "resp_1",
    *,
    read: bool = False,
    at: int = 0,
    project: str = P1,
    token: str = TOKEN,
    tokens: int = 12,
    event_id: str = "",
    hour: datetime = HOUR,
) -> tuple[Entry, Mark]:
    name = event_id or f"{next(Node.numbers):032x}"
    entry = (hour, project, token, "m", 1, 0, tokens, *[0] * (WIDTH - 7))
    return entry, (name, response, read, at, tokens)  # type: ignore[return-value]


def sums(node: Node, project: str = P1) -> tuple[int, int]:
    """Requests, and prompt tokens."""
    (found,) = node.ledger.sums(
        HOUR, HOUR + timedelta(days=1), ["project"], project_id=project, limit=9
    )
    return found.requests, found.prompt_tokens


def test_a_generation_counts_and_reading_it_does_not(node: Node, migrated_url: str) -> None:
    node.add(event(at=1), event(read=True, at=2))
    node.add(event(read=True, at=3))
    other = Node(migrated_url)  # of the same database
    other.add(event(read=True, at=4))
    assert sums(node) == (4, 12)
    other.database.close()


def test_a_generation_that_reported_nothing_counts_with_its_first_read(node: Node) -> None:
    node.add(event(None, tokens=0, at=1))
    node.add(event(read=True, at=2), event(read=True, at=3))
    node.add(event(read=True, at=4))
    assert sums(node) == (4, 12)


def test_the_same_id_again_makes_no_generation_free(node: Node) -> None:
    node.add(event(at=1), event(at=2), event(read=True, at=3))
    node.add(event(at=4))
    assert sums(node) == (4, 36)
    node.add(event("resp_2", read=True, at=5))
    node.add(event("resp_2", at=6), event("resp_2", at=7))
    assert sums(node) == (7, 72), "nor does one that was read before"


def test_projects_have_ids_of_their_own(node: Node) -> None:
    node.add(event(at=1), event(read=True, at=2, project=P2))
    assert sums(node) == sums(node, P2) == (1, 12)


def test_a_read_counted_before_its_generation_is_taken_back(node: Node) -> None:
    later = HOUR + timedelta(hours=1)
    node.add(event(read=True, at=5, hour=later))
    assert sums(node) == (1, 12)
    node.add(event(at=3, tokens=13))
    assert sums(node) == (2, 13)
    rows = node.ledger.sums(HOUR, HOUR + timedelta(days=1), ["hour"], limit=9)
    assert [(row.requests, row.prompt_tokens) for row in rows] == [(1, 13), (1, 0)]
    node.add(event(read=True, at=6), event(at=4))  # counted once
    assert sums(node) == (4, 25)


def test_a_read_taken_back_may_be_repeated_in_the_same_batch(node: Node) -> None:
    """Two rows with one id would make every attempt of the batch fail."""
    read = event(read=True, at=5)
    node.add(read)
    node.add(event(at=3, tokens=13), read)
    assert sums(node) == (2, 13)
    node.add(read)
    assert sums(node) == (2, 13)


def test_two_transactions_take_back_a_read_once(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add(event(read=True, at=5))
    find, stale = counted_module._find, []

    def remembered(session: Session, names: Any) -> dict[str, str | None]:
        found = find(session, names)
        # The view of a transaction that began before the other one ended.
        return found if not stale else {**found, **stale.pop()}

    monkeypatch.setattr(counted_module, "_find", remembered)
    key = counted_module.response_key(P1, "resp_1")
    before = node.database.run(lambda session: find(session, [key]), readonly=True)
    node.add(event(at=3, tokens=13))
    stale.append(before)
    node.add(event(at=4))
    assert not stale
    assert sums(node) == (3, 25)


def test_an_event_repeated_by_another_source_counts_once(node: Node, migrated_url: str) -> None:
    node.add(event(None, event_id="a" * 32, at=1), event(None, event_id="b" * 32, at=2))
    other = Node(migrated_url)
    other.add(event(None, event_id="a" * 32, at=1), event(None, event_id="c" * 32, at=3))
    assert sums(node) == (3, 36)
    other.database.close()


@pytest.mark.parametrize("read", [False, True])
def test_an_event_named_by_its_response_counts_once(node: Node, read: bool) -> None:
    first, generated = event(read=read, at=5), event(at=4)
    node.add(first)
    node.add(first)
    assert sums(node) == (1, 12)
    node.add(generated)
    node.add(generated, first)
    assert sums(node) == (2, 12 if read else 24)


def test_nodes_that_add_the_same_response_at_once_count_it_once(
    node: Node, migrated_url: str
) -> None:
    nodes = [Node(migrated_url) for _ in range(4)]
    jobs = [gevent.spawn(one.add, event(read=True, at=1)) for one in nodes]
    gevent.joinall(jobs, raise_error=True)
    assert sums(node) == (4, 12)
    for one in nodes:
        one.database.close()


def test_a_read_is_charged_to_its_token_and_the_ancestors(node: Node) -> None:
    project = Projects(node.database, Cipher(b"k" * 32)).create("Acme", "sk-real", "sk-real")
    tokens = Tokens(node.database)
    expires_at = datetime(2100, 1, 1, tzinfo=UTC)
    made: dict[str, str] = {}
    for name, parent in (("parent", None), ("child", "parent"), ("other", None)):
        made[name] = new_token_id()
        tokens.create(
            token_id=made[name],
            token_hash=name.ljust(64, "0"),
            token_mask="sk-aaaa...aaaa",
            project_id=project.id,
            expires_at=expires_at,
            lineage=[made[parent]] if parent else [],
        )

    def used() -> list[int]:
        return [tokens.get(token_id).tokens_used for token_id in made.values()]

    node.add(event(read=True, at=5, token=made["child"], project=project.id))
    assert used() == [12, 12, 0]
    node.add(event(read=True, at=6, token=made["other"], project=project.id))
    assert used() == [12, 12, 0]
    # The worker itself charges a generation.
    node.add(event(at=4, token=made["other"], project=project.id))
    assert used() == [0, 0, 0]


def test_without_days_each_read_counts(node: Node, migrated_url: str) -> None:
    other = Node(migrated_url, days=0)
    for at in range(3):
        other.add(event(read=True, at=at))
    assert sums(node) == (3, 36)
    other.add(event("resp_2", at=1), event("resp_2", read=True, at=2), event("resp_2", read=True))
    assert sums(node) == (6, 72), "of one batch too"
    other.add(event(None, event_id="a" * 32))
    other.add(event(None, event_id="a" * 32))
    assert sums(node) == (7, 84), "events are known all the same"
    other.database.close()


def test_expired_rows_are_deleted(node: Node) -> None:
    node.add(event(at=1), event("resp_2", at=2, read=True))
    counted, now = CountedIds(node.database, 7), datetime.now(UTC)
    assert counted.prune(now, 10) == 0
    assert counted.prune(now + timedelta(days=2), 10) == 0, "their responses name them"
    node.add(event(at=3, read=True))
    assert sums(node) == (3, 24)
    assert counted.prune(now + timedelta(days=6), 10) == 1
    assert [counted.prune(now + timedelta(days=8), 1) for _ in range(3)] == [1, 1, 0]
    node.add(event(at=4, read=True))
    assert sums(node) == (4, 36)


def test_ids_are_looked_up_in_pages(node: Node) -> None:
    batch: list[Any] = [event(f"resp_{number}", at=number) for number in range(700)]
    node.add(*batch)
    node.add(*[event(f"resp_{number}", read=True, at=1000 + number) for number in range(700)])
    assert sums(node) == (1400, 700 * 12)


def test_the_read_that_counted_is_named(node: Node) -> None:
    first = event("read", read=True, at=1)
    node.add(event("made", at=1), event("made", read=True, at=2))
    node.add(first, event("read", read=True, at=2))
    names = [(P1, "made"), (P1, "read"), (P2, "read"), (P1, "unknown")]
    found = node.ledger.counted.readers(names)
    assert found == {(P1, "made"): "", (P1, "read"): first[1][0]}
