"""Where the secret of the cache's keys lies."""

from pathlib import Path

from proxy.events.queue import EventQueue
from proxy.gateway.inflight import InFlightRequests
from proxy.settings.settings import Settings
from proxy.store.migrate import Migrator
from proxy.wiring.accounts import AccountServices
from proxy.wiring.cache_secret import FILE, cache_secret
from tests.support.installation import settings


def worker(chosen: Settings) -> AccountServices:
    return AccountServices(chosen, InFlightRequests(), EventQueue(10))


def test_the_workers_of_all_nodes_find_it_in_the_database(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    first, second = worker(chosen), worker(chosen)
    Migrator(first.database).migrate()
    found = cache_secret(chosen, first).get()
    assert found is not None
    assert cache_secret(chosen, second).get() == found
    assert not (chosen.data_dir / FILE).exists()
    for accounts in (first, second):
        accounts.close()


def test_in_pass_through_mode_it_is_a_file_of_the_node(tmp_path: Path) -> None:
    chosen = settings(tmp_path, AUTH_MODE="passthrough")
    accounts = worker(chosen)
    secret = cache_secret(chosen, accounts)
    assert secret.get() is None, "there is no folder yet"
    chosen.make_data_dir()
    found = cache_secret(chosen, accounts).get()
    assert found is not None
    assert (chosen.data_dir / FILE).read_bytes() == found
    assert [path.name for path in chosen.data_dir.iterdir()] == [FILE]
    accounts.close()
