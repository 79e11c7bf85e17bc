"""Databases that older versions made, with their data in them, brought to the newest schema."""

from datetime import UTC, datetime, timedelta

import pytest

from proxy.core.errors import StoreError
from proxy.crypto.cipher import Cipher
from proxy.crypto.tokens import new_token_id
from proxy.store import migrate
from proxy.store.database import Database, Session
from proxy.store.grants import Grants
from proxy.store.leases import TaskLeases
from proxy.store.migrate import Migrator, load
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens
from tests.support.services import MariaDB

PROJECT_ID = "00000000-0000-4000-8000-000000000001"
TOKEN_ID = new_token_id()
HASH = "a" * 64
EXPIRES = 4_000_000_000_000_000
CIPHER = Cipher(b"k" * 32)

PROJECT_OF_0001 = (
    "INSERT INTO projects (id, name, description, metadata, upstream_key, upstream_key_mask, "
    "is_active, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?)"
)
TOKEN_OF_0001 = (
    "INSERT INTO tokens (id, token_hash, token_mask, name, project_id, expires_at, is_active, "
    "max_requests, request_count, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)"
)


class CutOff(Exception):
    """The migrating process ends here."""


def fill(session: Session) -> None:
    """A project and a token, written as the version of 0001 wrote them."""
    sealed = CIPHER.encrypt("sk-real", table="projects", column="upstream_key", row_id=PROJECT_ID)
    project = (PROJECT_ID, "Acme ☃", "text", '{"a":1}', sealed, "mask", 7, 8)
    session.execute(PROJECT_OF_0001, project)
    token = (TOKEN_ID, HASH, "sk-aaaa...aaaa", "ci", PROJECT_ID, EXPIRES, 5, 3, 9, 10)
    session.execute(TOKEN_OF_0001, token)


def migrate_to(number: int, database: Database) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "load", lambda name: load(name)[:number])
        Migrator(database).migrate()


def old_database(url: str) -> Database:
    database = Database.from_url(url)
    migrate_to(1, database)
    database.run(fill)
    with pytest.raises(StoreError):
        database.run(lambda session: session.one("SELECT policy FROM projects"))
    return database


def check(database: Database) -> None:
    """The rows are still there, have no policy, and can be given one."""
    projects, tokens, grants = (
        Projects(database, CIPHER),
        Tokens(database),
        Grants(database, CIPHER),
    )
    grant = grants.find(HASH)
    assert grant is not None
    assert (grant.token, grant.project) == (tokens.get(TOKEN_ID), projects.get(PROJECT_ID))
    assert grant.upstream_key == "sk-real"
    assert (grant.token.policy, grant.project.policy) == ({}, {})
    assert grant.project.cache_epoch == 0
    assert (grant.project.name, grant.project.metadata) == ("Acme ☃", {"a": 1})
    assert (grant.token.max_requests, grant.token.request_count) == (5, 3)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert grant.project.updated_at == epoch + timedelta(microseconds=8)
    assert grant.token.expires_at == epoch + timedelta(microseconds=EXPIRES)
    changed = projects.update(PROJECT_ID, {"policy": {"on_disconnect": "drain"}})
    assert changed.policy == {"on_disconnect": "drain"}
    assert projects.purge_responses(PROJECT_ID).cache_epoch == 1


def test_from_0001(database_url: str) -> None:
    database = old_database(database_url)
    assert Migrator(database).pending()[0].number == 2
    done = Migrator(database).migrate()
    assert (done[0].number, done[0].name) == (2, "policy")
    assert Migrator(database).pending() == []
    check(database)


def test_the_leases_of_tasks_move_to_a_table_of_another_name(database_url: str) -> None:
    database = old_database(database_url)
    migrate_to(6, database)
    lease = "INSERT INTO chores (name, holder, held_until) VALUES (?, ?, ?)"
    database.run(lambda session: session.execute(lease, ("housekeeping", "old", EXPIRES)))
    assert Migrator(database).migrate()[0].name == "leases"
    assert database.run(lambda s: (s.has_table("chores"), s.has_table("leases"))) == (False, True)
    assert TaskLeases(database).take("housekeeping", "new", 60), "an old node's lease is dropped"
    check(database)


class TestCutOff:
    """A migration that ended after any of its statements, and so was not recorded, runs again."""

    #: How often 0002 can be cut off: before its first statement, …, after its last.
    POINTS = range(len(load("mysql")[1].statements) + 1)

    @pytest.mark.parametrize("point", POINTS)
    def test_on_mysql(self, mysql_url: str, mariadb: MariaDB, point: int) -> None:
        database = old_database(mysql_url)

        def part(session: Session) -> None:
            for statement in load("mysql")[1].statements[:point]:
                session.execute(statement)
            raise CutOff

        with pytest.raises(CutOff):
            # With a timeout of its own, as migrations are: a connection that is closed afterwards.
            database.run(part, timeout=60)
        assert Migrator(database).migrate()[0].number == 2
        columns = mariadb.admin(
            "SELECT table_name, column_type, is_nullable, character_set_name "
            "FROM information_schema.columns WHERE table_schema = %s AND column_name = 'policy' "
            "ORDER BY table_name",
            (mysql_url.rpartition("/")[2],),
        )
        assert columns == [
            ("projects", "mediumtext", "YES", "utf8mb4"),
            ("tokens", "mediumtext", "YES", "utf8mb4"),
        ]
        check(database)

    @pytest.mark.parametrize("name", ["sqlite", "postgres"])
    def test_on_other_databases_it_was_rolled_back(
        self, name: str, request: pytest.FixtureRequest
    ) -> None:
        database = old_database(request.getfixturevalue(f"{name}_url"))

        def part(session: Session) -> None:
            session.execute(load(database.dialect.name)[1].statements[0])
            raise CutOff

        with pytest.raises(CutOff):
            database.run(part)
        assert Migrator(database).migrate()[0].number == 2
        check(database)


@pytest.mark.parametrize(
    ("before", "point"),
    [
        (before, point)
        for before in (2, 4, 6, 8)
        for point in range(len(load("mysql")[before].statements) + 1)
    ],
)
def test_other_migrations_on_mysql_after_a_cut(mysql_url: str, before: int, point: int) -> None:
    database = old_database(mysql_url)
    migrate_to(before, database)

    def part(session: Session) -> None:
        for statement in load("mysql")[before].statements[:point]:
            session.execute(statement)
        raise CutOff

    with pytest.raises(CutOff):
        database.run(part, timeout=60)
    assert Migrator(database).migrate()[0].number == before + 1
    check(database)
