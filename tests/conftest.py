"""Fixtures that everybody shares. The product runs under gevent, so the tests do, too."""

# ruff: noqa: E402
import gc
import importlib.util
import os
import posix
import signal
import sys

from gevent import monkey

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker hears from pytest in a native thread, older than the patching. What that thread
    # shares with this one must be native too: gevent's locks and events lose wake-ups between
    # native threads. This copy of `threading` is one that nobody patches.
    import execnet.gateway_base

    spec = importlib.util.find_spec("threading")
    assert spec is not None
    assert spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    for name in ("Lock", "RLock", "Event"):
        made = staticmethod(getattr(native, name))
        setattr(execnet.gateway_base.MainThreadOnlyExecModel, name, made)

monkey.patch_all()

# Coverage wraps these for a program that becomes another one (`manage.py serve`). Here gevent calls
# them in the child of each start: it would write down all that was measured so far, every time, and
# be measured whatever its environment says.
os.execv, os.execve = posix.execv, posix.execve

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As a shell leaves it for what runs in the background; every program started here would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest

from proxy.store.database import Database
from proxy.store.migrate import Migrator
from tests.support import canaries
from tests.support.open_handles import sockets
from tests.support.paths import ROOT
from tests.support.services import MariaDB, Moto, Postgres, RedisServer, mysql_server
from tests.support.wait import wait_until


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What a test has printed or logged is looked through, too."""
    for _, text in report.sections:
        canaries.PRINTED.extend((report.nodeid, secret) for secret in canaries.found_in(text))


# How fast a machine is that does other things, too, is no property of the code.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    # Without `explain`, which traces every example for a hint that only a failure needs.
    phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("suite")


#: Whose servers and commands coverage looks at, too; it makes a start three times as expensive.
#: What only such a process does, each of its kinds does in one of these files.
MEASURED = {
    "tests/integration/cli/test_events.py",
    "tests/integration/cli/test_serve.py",
    "tests/integration/cli/test_first_run.py",
    "tests/e2e/test_lifecycle.py",
    "tests/integration/logs/test_async_handler.py",
    "tests/integration/server/test_supervisor.py",
    "tests/integration/server/test_worker.py",
}
#: By which a process that is started finds out that it is measured.
COVERAGE = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture starts something."""
    for name in COVERAGE:
        os.environ.pop(name, None)
    if str(item.path.relative_to(item.config.rootpath)) in MEASURED:
        os.environ.update(COVERAGE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A property is not measured: most of its time would be spent on looking at Hypothesis. What it
    runs is run by the examples beside it, too."""
    tracer = sys.gettrace()
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


def pytest_configure(config: pytest.Config) -> None:
    """The process that only hands out tests need not be looked at."""
    measuring = coverage.Coverage.current()
    if measuring is not None and config.getoption("numprocesses", None):
        measuring.stop()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`auto`: one more than there are processors, since much of the suite waits. `logical`: as many
    as there are, for the unit tests: they compute, and each process costs seconds of imports."""
    waits = config.getoption("numprocesses") == "auto"
    return min(len(os.sched_getaffinity(0)) + waits, 8)


#: Fixtures that start a database, Redis, Prometheus or AWS's stand-in.
_SERVICES = frozenset(
    {"mariadb", "moto", "mysql_url", "postgres", "postgres_url", "redis_server"}
    | {"database_url", "migrated_postgres", "migrated_url"}
    | {"own_mariadb", "own_redis", "prometheus"}
)
#: Parameters by which a test outside `tests/unit` takes one of these fixtures while it runs.
_SERVICE_PARAMETERS = frozenset({"mariadb", "mysql", "postgres", "postgresql", "redis"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Markers that follow from where a test is and what it asks for. `slow` is set by hand."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        is_unit = item.path.is_relative_to(ROOT / "tests" / "unit")
        if item.path.is_relative_to(ROOT / "tests" / "e2e"):
            item.add_marker(pytest.mark.e2e)
        if not _SERVICES.isdisjoint(fixtures):
            item.add_marker(pytest.mark.services)
        elif not is_unit and hasattr(item, "callspec"):
            values = item.callspec.params.values()
            if any(isinstance(one, str) and one in _SERVICE_PARAMETERS for one in values):
                item.add_marker(pytest.mark.services)


def pytest_collection_finish() -> None:
    """What is imported stays; looking for garbage in it takes a fifth of the processor's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_secret_in_any_output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At its end each test process looks through all that its servers, commands and tests wrote."""
    yield
    files = list(canaries.outputs(tmp_path_factory.getbasetemp()))
    leaks = canaries.leaks(files)
    assert not leaks, f"{len(leaks)} leaks in {len(files)} files"
    assert not canaries.PRINTED


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """One server for all tests of this process."""
    with mysql_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of this process."""
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


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> str:
    """The name of a database to be copied, with the newest schema and nothing in it."""
    name = postgres.create_database()
    database = Database.from_url(postgres.url(name))
    Migrator(database).migrate()
    database.close()
    return name


@pytest.fixture(params=["sqlite", "mysql", "postgresql"])
def migrated_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """As `database_url`, for those who migrate it first: where it can be copied that is done."""
    if request.param != "postgresql":
        yield request.getfixturevalue(f"{request.param}_url")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    request.getfixturevalue("closing")
    name = postgres.create_database(template=request.getfixturevalue("migrated_postgres"))
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture(params=["sqlite", "mysql", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Every test that takes this runs on each database."""
    fixture = {"postgresql": "postgres"}.get(request.param, request.param)
    url: str = request.getfixturevalue(f"{fixture}_url")
    return url


@pytest.fixture
def no_socket_left() -> Iterator[None]:
    """The test closes every socket that it opens."""
    before = sockets()
    yield
    wait_until(lambda: sockets() <= before)
