"""Entries of the file beside stored ones."""

from dataclasses import replace

from proxy.providers.records import RoutingRecords
from proxy.routing.file_entries import merged
from tests.support.routing_records import key, mapping, provider

FILE = RoutingRecords(
    (replace(provider("both", is_default=True), id="file-both"),),
    (),
    (mapping("smart", "both"),),
)


def test_entries_of_both_places_hold() -> None:
    stored = RoutingRecords((provider("stored"),), (key("stored", "1"),), (mapping("x", "stored"),))
    records, problems = merged(FILE, stored)
    assert [each.name for each in records.providers] == ["both", "stored"]
    assert [each.alias_name for each in records.mappings] == ["smart", "x"]
    assert len(records.keys) == 1
    assert problems == []


def test_a_name_in_both_places_is_the_file_s() -> None:
    stored = RoutingRecords((provider("both"),), (key("both", "1"),), (mapping("smart", "both"),))
    records, problems = merged(FILE, stored)
    assert [each.id for each in records.providers] == ["file-both"]
    assert records.keys == ()
    assert records.mappings == FILE.mappings
    assert problems == [
        "the provider 'both' is in the file and in the database: rename or delete one of them",
        "the alias 'smart' is in the file and in the database: rename or delete one of them",
    ]


def test_the_default_of_the_file_is_the_only_one() -> None:
    stored = RoutingRecords((provider("stored", is_default=True),))
    records, _ = merged(FILE, stored)
    assert [each.name for each in records.providers if each.is_default] == ["both"]
