"""Known tokens in a file: shared, encrypted, bounded, and removed by changes."""

import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.core.errors import StoreError
from proxy.crypto.cipher import Cipher
from proxy.store import knowntokens
from proxy.store.knowntokens import Confirmed, Found, KnownTokens, Learned, Outdated
from proxy.store.records import Grant
from proxy.store.rows import to_micros
from tests.support.clock import Clock
from tests.support.grants import PROJECT, START, TOKEN

KEY, OTHER = b"k" * 32, b"o" * 32
NOW = START.timestamp()
SECRET = "sk-upstream-canary-0123456789"
NEVER = Outdated()


def cipher(key: bytes = KEY, *previous: bytes, label: str = "known") -> Cipher:
    return Cipher.derived(label, key, previous)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "known-tokens.db"


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def known(path: Path, clock: Clock) -> KnownTokens:
    return KnownTokens(path, cipher(), max_rows=5, clock=clock)


def grant(number: int = 1, **changes: Any) -> Grant:
    token = replace(TOKEN, id=f"token-{number}", **changes)
    return Grant(token, PROJECT, SECRET)


def learned(number: int = 1, at: float = NOW, **changes: Any) -> Learned:
    return Learned(f"hash-{number}", grant(number, **changes), at)


def test_rows_are_shared_by_all_workers(known: KnownTokens, path: Path) -> None:
    assert known.find("hash-1") is None
    known.update([learned()], NEVER, None)
    other = KnownTokens(path, cipher(), max_rows=5)
    assert other.find("hash-1") == Found(grant(), NOW)
    assert other.find("hash-2") is None
    known.close()
    other.close()


def test_the_file_has_no_plaintext(known: KnownTokens, path: Path) -> None:
    known.update([learned()], NEVER, None)
    for file in path.parent.iterdir():
        assert SECRET.encode() not in file.read_bytes()
        assert b"sk-JHjW" not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("reader", "readable"),
    [
        (cipher(), True),
        (cipher(OTHER, KEY), True),  # after a rotation
        (cipher(OTHER), False),
        (cipher(label="known tokens of another database"), False),
        (Cipher(KEY), False),  # the root key itself
    ],
)
def test_only_the_owner_may_read_the_file(
    known: KnownTokens, path: Path, reader: Cipher, readable: bool
) -> None:
    known.update([learned()], NEVER, None)
    found = KnownTokens(path, reader, max_rows=5).find("hash-1")
    assert (found is not None) is readable


def test_a_row_moved_to_another_token_is_rejected(known: KnownTokens, path: Path) -> None:
    known.update([learned(1), learned(2)], NEVER, None)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE known SET sealed = (SELECT sealed FROM known WHERE token_hash = 'hash-2')"
        )
    assert known.find("hash-1") is None
    assert known.find("hash-2")


class TestChanges:
    LATER = to_micros(START) + 1

    @pytest.mark.parametrize("changed", ["token-1", "project-1", "parent"])
    def test_a_change_removes_the_rows_that_it_affects(
        self, known: KnownTokens, changed: str
    ) -> None:
        child = replace(grant(), ancestors=(replace(TOKEN, id="parent"),))
        known.update([Learned("hash-1", child, NOW), learned(2)], NEVER, None)
        known.update([], Outdated(versions={changed: self.LATER}), None)
        assert known.find("hash-1") is None
        assert (known.find("hash-2") is None) is (changed == "project-1")

    def test_a_row_read_after_the_change_stays(self, known: KnownTokens) -> None:
        known.update([learned()], Outdated(versions={"token-1": to_micros(START)}), None)
        known.update([], Outdated(versions={"token-1": to_micros(START)}), None)
        assert known.find("hash-1")

    def test_a_row_read_before_the_change_is_not_stored(
        self, known: KnownTokens, path: Path
    ) -> None:
        """By a worker that has not received the change yet."""
        known.update([], Outdated(versions={"token-1": self.LATER}), None)
        slow = KnownTokens(path, cipher(), max_rows=5)
        slow.update([learned()], NEVER, None)
        assert known.find("hash-1") is None
        changed = learned(updated_at=START + timedelta(microseconds=1))
        slow.update([changed], NEVER, None)
        assert known.find("hash-1")

    def test_a_clock_put_back_still_removes_rows(self, known: KnownTokens) -> None:
        known.update([learned()], NEVER, None)
        known.update([], Outdated(versions={"token-1": to_micros(START) - 1}), None)
        assert known.find("hash-1") is None

    def test_an_announced_change_removes_a_row_until_it_is_read_again(
        self, known: KnownTokens
    ) -> None:
        known.update([learned(1), learned(2)], NEVER, None)
        known.update([], Outdated(ids=frozenset({"token-1", "unknown"})), None)
        assert known.find("hash-1") is None
        assert known.find("hash-2")
        known.update([learned()], NEVER, None)
        assert known.find("hash-1")

    def test_all_rows_can_be_removed(self, known: KnownTokens) -> None:
        known.update([learned(1), learned(2)], NEVER, None)
        known.update([learned(3, at=NOW)], Outdated(everything=NOW + 1), None)
        assert not any(known.find(f"hash-{number}") for number in (1, 2, 3))
        known.update([learned(3, at=NOW + 1.1)], NEVER, None)
        assert known.find("hash-3")

    def test_an_unknown_token_removes_its_row(self, known: KnownTokens) -> None:
        known.update([learned()], NEVER, None)
        known.update([Learned("hash-1", None, NOW)], NEVER, None)
        assert known.find("hash-1") is None

    def test_the_newer_row_stays(self, known: KnownTokens) -> None:
        known.update([learned(at=NOW + 1)], NEVER, None)
        known.update([learned(at=NOW)], NEVER, None)
        found = known.find("hash-1")
        assert found is not None
        assert found.read_at == NOW + 1


class TestBounds:
    def test_the_newest_rows_are_kept(self, known: KnownTokens) -> None:
        for number in range(8):
            known.update([learned(number, at=NOW + number)], NEVER, None)
        assert [bool(known.find(f"hash-{number}")) for number in range(8)] == 3 * [False] + 5 * [
            True
        ]

    def test_expired_rows_are_removed(self, known: KnownTokens, clock: Clock) -> None:
        known.update([learned(1, expires_at=START + timedelta(seconds=10))], NEVER, None)
        clock.now += 11
        known.update([learned(2)], NEVER, None)
        assert known.find("hash-1") is None

    def test_a_long_row_is_not_kept(
        self, known: KnownTokens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known.update([learned()], NEVER, None)
        monkeypatch.setattr(knowntokens, "MAX_ROW_BYTES", 100)
        known.update([learned(at=NOW + 1)], NEVER, None)
        assert known.find("hash-1") is None, "an old one must not stay either"

    def test_old_changes_are_forgotten(self, known: KnownTokens, clock: Clock, path: Path) -> None:
        known.update([], Outdated(versions={"token-9": 1}), None)
        clock.now += 1000
        known.update([learned()], NEVER, None)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT COUNT(*) FROM gone").fetchone() == (0,)


def test_the_confirmed_time_only_grows(known: KnownTokens) -> None:
    assert known.confirmed() is None
    known.update([], NEVER, Confirmed(5, NOW))
    assert known.confirmed() is None, "there is nothing that could be"
    known.update([learned()], NEVER, Confirmed(7, NOW + 1))
    known.update([], NEVER, Confirmed(6, NOW))
    assert known.confirmed() == Confirmed(7, NOW + 1)


def test_an_unusable_file_is_a_store_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    known = KnownTokens(path, cipher(), max_rows=5)
    with pytest.raises(StoreError):
        known.find("hash-1")
    with pytest.raises(StoreError):
        known.update([learned()], NEVER, None)
