"""The catalog of a worker: entries of the file and of the database."""

from pathlib import Path
from typing import Any

import pytest

from proxy.providers.records import RoutingRecords
from proxy.wiring.routing import WorkerRouting
from tests.support.installation import settings
from tests.support.routing_records import mapping, provider

FILE = """
default_api: a
providers:
  - {name: a, provider_type: openai, base_url: "https://a.example"}
  - {name: b, provider_type: openai, base_url: "https://b.example", is_default: true}
mappings: [{alias_name: smart, provider: a, provider_model_name: one}]
"""


class Tables:
    """The database's records. Nothing else of it is used without keys."""

    def __init__(self, *records: Any) -> None:
        providers = tuple(each for each in records if hasattr(each, "base_url"))
        mappings = tuple(each for each in records if hasattr(each, "alias_name"))
        self._records = RoutingRecords(providers=providers, mappings=mappings)

    def read(self) -> RoutingRecords:
        return self._records


def routing(folder: Path, *stored: Any, file: str = FILE, **more: str) -> WorkerRouting:
    path = folder / "providers.yaml"
    path.write_text(file)
    made = settings(folder, API_CONFIG_PATH=str(path), **more)
    unused: Any = None
    tables: Any = Tables(*stored)
    found = WorkerRouting(made, tables, unused, unused)
    found.load()
    return found


def test_the_setting_wins_over_the_file_and_that_over_the_mark(tmp_path: Path) -> None:
    assert routing(tmp_path).router.catalog.default_provider == "a"
    chosen = routing(tmp_path, provider("c"), DEFAULT_API_PROVIDER="c")
    assert chosen.router.catalog.default_provider == "c"
    marked = routing(tmp_path, file=FILE.replace("default_api: a", ""))
    assert marked.router.catalog.default_provider == "b"


def test_entries_of_both_places_are_used(tmp_path: Path) -> None:
    catalog = routing(tmp_path, provider("c"), mapping("fast", "c/x")).router.catalog
    assert set(catalog.providers) == {"a", "b", "c"}
    assert set(catalog.aliases) == {"smart", "fast"}


def test_a_name_in_both_places_is_logged_once_and_the_file_s_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = routing(tmp_path, provider("a", base_url="https://stored.example"))
    found.load()
    assert found.router.catalog.providers["a"].record.base_url == "https://a.example"
    logged = [each.message for each in caplog.records]
    assert logged == [
        "routing: the provider 'a' is in the file and in the database: rename or delete one of"
        " them; the file's entry is used"
    ]
