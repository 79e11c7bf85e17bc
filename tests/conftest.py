"""Fixtures that everybody shares. The product runs under gevent, so the tests do, too."""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.store.database import Database
from tests import canaries
from tests.services import MariaDB, Moto, Postgres, RedisServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The search for secrets comes last, when there is something to be searched."""
    items.sort(key=lambda item: item.name == "test_no_secret_in_any_output")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What a test has printed or logged is looked through, too."""
    for _, text in report.sections:
        canaries.PRINTED.extend((report.nodeid, secret) for secret in canaries.found_in(text))


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """One server for the whole run."""
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the whole run."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole run."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """One server for the whole run."""
    with Moto() as server:
        yield server


@pytest.fixture
def closing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes every Database that the test makes, before its files and servers go away."""
    made: list[Database] = []
    original = Database.__init__

    def remember(self: Database, *args: Any) -> None:
        original(self, *args)
        made.append(self)

    monkeypatch.setattr(Database, "__init__", remember)
    yield
    for database in made:
        database.close()


@pytest.fixture
def mysql_url(mariadb: MariaDB, closing: None) -> Iterator[str]:
    """A URL to an empty database of its own."""
    name = mariadb.create_database()
    yield mariadb.url(name)
    mariadb.drop_database(name)


@pytest.fixture
def postgres_url(postgres: Postgres, closing: None) -> Iterator[str]:
    """A URL to an empty database of its own."""
    name = postgres.create_database()
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def sqlite_url(tmp_path: Path, closing: None) -> str:
    """A URL to a file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'store' / 'proxy.db'}"


@pytest.fixture(params=["sqlite", "mysql", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Every test that takes this runs on each database."""
    fixture = {"postgresql": "postgres"}.get(request.param, request.param)
    url: str = request.getfixturevalue(f"{fixture}_url")
    return url
