"""Rotation: every readable row ends under the newest key, and no concurrent change is lost."""

import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from proxy.core.errors import CipherError
from proxy.crypto.cipher import Cipher
from proxy.crypto.tokens import hash_token, new_token_id
from proxy.providers.records import ProviderKeyRecord
from proxy.store import rotation
from proxy.store.audit import PendingEntry
from proxy.store.database import Database
from proxy.store.grants import Grants
from proxy.store.installation_secrets import RESPONSE_CACHE, InstallationSecrets
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.provider_keys import ProviderKeys
from proxy.store.providers import Providers
from proxy.store.records import Project
from proxy.store.rotation import KeyCount, Rotated, count_by_key, rotate, unreadable
from proxy.store.routing_tables import RoutingTables
from proxy.store.rows import from_micros
from proxy.store.tokens import Tokens

OLD, NEW, LOST = b"o" * 32, b"n" * 32, b"l" * 32
BEFORE = Cipher(OLD)
BETWEEN = Cipher(NEW, [OLD])
AFTER = Cipher(NEW)
LATER = from_micros(4_000_000_000_000_000)


@pytest.fixture
def database(migrated_url: str) -> Database:
    database = Database.from_url(migrated_url)
    Migrator(database).migrate()
    return database


def project(database: Database, name: str, cipher: Cipher = BEFORE) -> Project:
    made = Projects(database, cipher).create(name, f"sk-{name}-0", "mask")
    Tokens(database).create(new_token_id(), made.id, hash_token(name), "mask", LATER)
    return made


def cell(database: Database, made: Project) -> str:
    sql = "SELECT upstream_key FROM projects WHERE id = ?"
    row = database.run(lambda session: session.one(sql, (made.id,)))
    assert row is not None
    return str(row[0])


def put(database: Database, made: Project, stored: str) -> None:
    sql = "UPDATE projects SET upstream_key = ? WHERE id = ?"
    database.run(lambda session: session.execute(sql, (stored, made.id)))


def in_clear(database: Database, name: str, cipher: Cipher = AFTER) -> str:
    grant = Grants(database, cipher).find(hash_token(name))
    assert grant is not None
    return grant.upstream_key


def counts(database: Database, cipher: Cipher) -> list[tuple[str, int]]:
    return [(count.state, count.rows) for count in count_by_key(database, cipher)]


class TestRotate:
    def test_old_and_plaintext_rows_are_rewritten_once(self, database: Database) -> None:
        old, plain = project(database, "old"), project(database, "plain")
        project(database, "new", AFTER)
        put(database, plain, "sk-plain-0")
        assert rotate(database, BETWEEN) == Rotated(rotated=1, encrypted=1, current=1)
        for name in ("old", "plain", "new"):
            assert in_clear(database, name) == f"sk-{name}-0"
        assert rotate(database, AFTER) == Rotated(current=3)
        assert Projects(database, AFTER).get(old.id) == old  # updated_at too

    def test_rows_are_rotated_in_pages(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rotation, "_PAGE", 2)
        for number in range(5):
            project(database, f"p{number}")
        assert rotate(database, BETWEEN) == Rotated(rotated=5)
        assert counts(database, AFTER) == [("current", 5), ("plaintext", 0)]

    def test_an_empty_database(self, database: Database) -> None:
        assert rotate(database, BETWEEN) == Rotated()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda made, other: Cipher(LOST).encrypt("sk-x", **place(made)),
            lambda made, other: other,  # another row's
            lambda made, other: "v1:sk-no-ciphertext",
            lambda made, other: f"v1:{AFTER.key_id}:AAAA",
        ],
        ids=["unknown key", "swapped", "no form", "cut"],
    )
    def test_unreadable_rows_are_reported_and_the_others_rotated(
        self, database: Database, damage: Callable[[Project, str], str]
    ) -> None:
        good, bad = project(database, "good"), project(database, "bad")
        stored = damage(bad, cell(database, good))
        put(database, bad, stored)
        done = rotate(database, BETWEEN)
        assert (done.rotated, done.encrypted, done.current) == (1, 0, 0)
        (failed,) = done.failed
        assert (failed.project_id, failed.name) == (bad.id, "bad")
        assert bad.id in failed.problem
        assert stored[12:] not in failed.problem
        assert "sk-" not in failed.problem
        assert cell(database, bad) == stored
        assert in_clear(database, "good") == "sk-good-0"
        with pytest.raises(CipherError):
            in_clear(database, "bad", BETWEEN)

    def test_two_swapped_rows_both_fail_even_under_the_current_key(
        self, database: Database
    ) -> None:
        one, two = project(database, "one", AFTER), project(database, "two", AFTER)
        first, second = cell(database, one), cell(database, two)
        put(database, one, second)
        put(database, two, first)
        done = rotate(database, AFTER)
        assert {failed.project_id for failed in done.failed} == {one.id, two.id}
        assert done.current == 0


class TestProviderKeys:
    def key(self, database: Database, name: str, cipher: Cipher = BEFORE) -> ProviderKeyRecord:
        providers = Providers(database)
        found = providers.list() or [providers.create("p", "openai", "https://p.test")]
        keys = ProviderKeys(database, cipher)
        return keys.create(found[0].id, name, f"sk-{name}-0", "mask")

    def values(self, database: Database, cipher: Cipher = AFTER) -> list[str]:
        return [secret.value for secret in RoutingTables(database, cipher).read().keys]

    def test_they_are_rewritten_too(self, database: Database) -> None:
        project(database, "p")
        old, plain = self.key(database, "a"), self.key(database, "b")
        self.key(database, "c", AFTER)
        sql = "UPDATE provider_keys SET value = ? WHERE id = ?"
        database.run(lambda session: session.execute(sql, ("sk-b-0", plain.id)))
        assert counts(database, BETWEEN) == [("current", 1), ("previous", 2), ("plaintext", 1)]
        query = "SELECT updated_at FROM revisions"
        revision = database.run(lambda session: session.one(query))
        drafts: list[PendingEntry] = []

        def draft() -> PendingEntry:
            drafts.append(PendingEntry("keys.rotate", "cli"))
            return drafts[-1]

        assert rotate(database, BETWEEN, draft) == Rotated(rotated=2, encrypted=1, current=1)
        assert self.values(database) == ["sk-a-0", "sk-b-0", "sk-c-0"]
        assert database.run(lambda session: session.one(query)) == revision
        assert ProviderKeys(database, AFTER).get(old.id) == old  # updated_at too
        entries = [entry.entry for entry in drafts if entry.entry is not None]
        found = [entry.details for entry in entries if entry.project_id is None]
        assert sorted(details["provider_key_id"] for details in found) == sorted((old.id, plain.id))
        assert all(details["after"] == {"key_id": AFTER.key_id} for details in found)

    def test_one_that_cannot_be_read_is_reported(self, database: Database) -> None:
        lost = self.key(database, "lost", Cipher(LOST))
        self.key(database, "good")
        (failed,) = rotate(database, BETWEEN).failed
        assert (failed.provider_key_id, failed.project_id) == (lost.id, None)
        assert failed.name == "lost"
        assert self.values(database) == ["sk-good-0"]
        assert unreadable(database, BETWEEN).startswith("1 of 2 rows cannot be read: ")


class TestInstallationSecrets:
    def test_they_are_rewritten_too(self, database: Database) -> None:
        made = InstallationSecrets(database, BEFORE).get(RESPONSE_CACHE)
        drafts: list[PendingEntry] = []

        def draft() -> PendingEntry:
            drafts.append(PendingEntry("keys.rotate", "cli"))
            return drafts[-1]

        assert rotate(database, BETWEEN, draft) == Rotated(rotated=1)
        assert InstallationSecrets(database, AFTER).get(RESPONSE_CACHE) == made
        assert counts(database, AFTER) == [("current", 1), ("plaintext", 0)]
        (entry,) = [each.entry for each in drafts if each.entry is not None]
        assert (entry.project_id, entry.details["secret_id"]) == (None, RESPONSE_CACHE)

    def test_one_that_cannot_be_read_is_reported(self, database: Database) -> None:
        InstallationSecrets(database, Cipher(LOST)).get(RESPONSE_CACHE)
        (failed,) = rotate(database, BETWEEN).failed
        assert (failed.secret_id, failed.name) == (RESPONSE_CACHE, RESPONSE_CACHE)
        assert (failed.project_id, failed.provider_key_id) == (None, None)
        assert unreadable(database, BETWEEN).startswith("1 of 1 rows cannot be read: ")

    def test_a_project_keeps_its_epoch(self, database: Database) -> None:
        """Its key in clear is the same, so what was stored with it stays readable."""
        made = project(database, "p")
        assert rotate(database, BETWEEN) == Rotated(rotated=1)
        assert Projects(database, AFTER).get(made.id).cache_epoch == made.cache_epoch


class Meddling(Cipher):
    """Runs a change between reading a row and rewriting it."""

    meddle: Callable[[], Any]

    def encrypt(self, plaintext: str, **cell: str) -> str:
        self.meddle()
        return super().encrypt(plaintext, **cell)


class TestConcurrently:
    def test_a_concurrent_change_wins(self, database: Database) -> None:
        made = project(database, "p")
        changes = iter(["sk-p-1", "sk-p-2"])
        cipher = Meddling(NEW, [OLD])

        def meddle() -> None:
            # By a worker that still has the old key.
            if key := next(changes, None):
                Projects(database, BEFORE).update(
                    made.id, {"upstream_key": key, "upstream_key_mask": "m"}
                )

        cipher.meddle = meddle
        assert rotate(database, cipher) == Rotated(rotated=1)
        assert in_clear(database, "p") == "sk-p-2"

    def test_a_row_that_changes_all_the_time_is_reported(self, database: Database) -> None:
        made = project(database, "p")
        cipher = Meddling(NEW, [OLD])
        change = {"upstream_key": "sk-p-1", "upstream_key_mask": "m"}
        cipher.meddle = lambda: Projects(database, BEFORE).update(made.id, change)
        (failed,) = rotate(database, cipher).failed
        assert failed.project_id == made.id
        assert in_clear(database, "p", BETWEEN) == "sk-p-1"

    def test_a_deleted_row_is_ignored(self, database: Database) -> None:
        made = Projects(database, BEFORE).create("p", "sk", "mask")
        cipher = Meddling(NEW, [OLD])
        sql = "DELETE FROM projects WHERE id = ?"
        cipher.meddle = lambda: database.run(lambda session: session.execute(sql, (made.id,)))
        assert rotate(database, cipher) == Rotated()

    def test_nothing_is_lost_under_load(self, database: Database, migrated_url: str) -> None:
        """Old and new workers change keys and read them while the rotation runs."""
        names = [f"p{number}" for number in range(6)]
        made = {name: project(database, name) for name in names}
        written = dict.fromkeys(names, 0)
        reads = 0
        running = True

        def change(cipher: Cipher, mine: list[str]) -> None:
            projects = Projects(Database.from_url(migrated_url), cipher)
            while running:
                for name in mine:
                    key = f"sk-{name}-{written[name] + 1}"
                    projects.update(
                        made[name].id, {"upstream_key": key, "upstream_key_mask": "mask"}
                    )
                    written[name] += 1
                gevent.sleep(0)

        def read() -> None:
            nonlocal reads
            own = Database.from_url(migrated_url)
            while running:
                for name in names:
                    low = written[name]
                    number = int(in_clear(own, name, BETWEEN).rpartition("-")[2])
                    assert low <= number <= written[name] + 1
                    reads += 1
                gevent.sleep(0)

        jobs = [
            gevent.spawn(change, BEFORE, names[:2]),
            gevent.spawn(change, BETWEEN, names[2:4]),
            gevent.spawn(read),
        ]
        try:
            deadline = time.monotonic() + 30
            while (reads < 60 or min(written[name] for name in names[:4]) < 5) and (
                time.monotonic() < deadline
            ):
                assert rotate(database, BETWEEN).failed == []
        finally:
            running = False
            gevent.joinall(jobs, raise_error=True)
        assert reads >= 60
        assert all(written[name] >= 5 for name in names[:4])
        assert rotate(database, BETWEEN).failed == []
        for name in names:
            assert in_clear(database, name) == f"sk-{name}-{written[name]}"
        assert counts(database, AFTER) == [("current", 6), ("plaintext", 0)]


class TestCount:
    def test_every_state_is_counted(self, database: Database) -> None:
        for number, name in enumerate(("a", "b", "c")):
            project(database, name, Cipher(OLD if number else NEW))
        project(database, "lost", Cipher(LOST))
        put(database, project(database, "plain"), "sk-plain")
        put(database, project(database, "short"), "sk")
        put(database, project(database, "damaged"), "v1:01234567")
        unused = b"u" * 32
        found = count_by_key(database, Cipher(NEW, [OLD, unused]))
        assert found[:4] == [
            KeyCount("current", AFTER.key_id, 1),
            KeyCount("previous", BEFORE.key_id, 2),
            KeyCount("previous", Cipher(unused).key_id, 0),
            KeyCount("plaintext", None, 2),
        ]
        assert set(found[4:]) == {
            KeyCount("unknown", Cipher(LOST).key_id, 1),
            KeyCount("damaged", None, 1),
        }

    def test_nothing_is_decrypted(self, database: Database) -> None:
        one, two = project(database, "one"), project(database, "two")
        put(database, one, cell(database, two))
        assert counts(database, BEFORE) == [("current", 2), ("plaintext", 0)]


def place(made: Project) -> dict[str, str]:
    return {"table": "projects", "column": "upstream_key", "row_id": made.id}


class TestUnreadable:
    def test_readable_rows_report_nothing(self, database: Database) -> None:
        assert unreadable(database, BETWEEN) == ""
        project(database, "old")
        project(database, "new", AFTER)
        put(database, project(database, "plain"), "sk-plain-0")
        assert unreadable(database, BETWEEN) == ""

    def test_rows_under_other_keys_are_counted_and_the_keys_named(self, database: Database) -> None:
        for number in range(3):
            project(database, f"old-{number}")
        for number in range(2):
            project(database, f"new-{number}", AFTER)
        said = unreadable(database, AFTER)
        assert said.startswith("3 of 5 rows cannot be read: ")
        assert BEFORE.key_id in said
        assert "ENCRYPTION_KEYS_PREVIOUS" in said

    def test_damaged_rows_are_counted_and_not_shown(self, database: Database) -> None:
        put(database, project(database, "p"), "v1:sk-no-ciphertext")
        assert unreadable(database, AFTER) == (
            "1 of 1 rows cannot be read: their values are damaged"
        )
