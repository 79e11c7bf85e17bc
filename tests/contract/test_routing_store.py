"""Providers, their keys and mappings in the store: one behaviour, on every database."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.crypto.cipher import Cipher
from proxy.providers.records import ROUTING_REVISION
from proxy.store.audit import AuditEntry, AuditLog, PendingEntry
from proxy.store.changes import Changes
from proxy.store.key_health import KeyHealth, KeyReport
from proxy.store.mappings import Mappings, MappingTarget
from proxy.store.routing_tables import RoutingTables
from proxy.store.rows import from_micros, to_micros
from tests.support.stored_records import ABSENT, NOW, Store


@pytest.fixture
def store(migrated_url: str) -> Iterator[Store]:
    store = Store(migrated_url)
    yield store
    store.database.close()


def refused(code: str, call: Callable[[], Any]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def draft(action: Any) -> PendingEntry:
    return PendingEntry(action, "management")


def written(store: Store, entry: PendingEntry) -> AuditEntry:
    assert entry.entry is not None
    return AuditLog(store.database).get(entry.id)


def bumped(store: Store, call: Callable[[], Any]) -> bool:
    """Whether `call` is announced to the workers."""
    query = "SELECT updated_at FROM revisions WHERE name = ?"
    before = store.cell(query, ROUTING_REVISION)
    call()
    return bool(store.cell(query, ROUTING_REVISION) > before)


class TestProviders:
    def test_what_goes_in_comes_out(self, store: Store) -> None:
        config = {"timeout": 5, "models": ["☃"]}
        made = store.provider("eu ☃", base_url="https://eu.example/v1", config=config)
        assert store.providers.get(made.id) == made
        assert (made.name, made.provider_type) == ("eu ☃", "openai")
        assert (made.base_url, made.config) == ("https://eu.example/v1", config)
        assert (made.is_active, made.is_default, made.source) == (True, False, "api")
        assert made.created_at == made.updated_at
        refused("not_found", lambda: store.providers.get(ABSENT))

    def test_long_values_fit(self, store: Store) -> None:
        made = store.provider("ü" * 255, base_url="https://h/" + "ü" * 2000)
        mapping = store.mapping(made, "ü" * 256, "☃" * 256)
        assert store.mappings.get(mapping.id) == mapping
        assert store.providers.get(made.id) == made

    def test_names_are_unique_and_case_matters(self, store: Store) -> None:
        store.provider("a")
        other = store.provider("A")
        assert refused("conflict", lambda: store.provider("a")).param == "name"
        update = lambda: store.providers.update(other.id, {"name": "a"})  # noqa: E731
        assert refused("conflict", update).param == "name"

    def test_lists_by_name_in_pages(self, store: Store) -> None:
        for name in ("b", "a", "C"):
            store.provider(name)
        names = [provider.name for provider in store.providers.list()]
        assert names == ["C", "a", "b"]
        first = store.providers.list(limit=2)
        assert [provider.name for provider in first] == ["C", "a"]
        rest = store.providers.list(limit=9, after=first[-1].id)
        assert [provider.name for provider in rest] == ["b"]
        assert refused("invalid_request", lambda: store.providers.list(after=ABSENT)).param

    def test_config_is_changed_by_a_merge_patch(self, store: Store) -> None:
        made = store.provider(config={"timeout": 5, "models": ["a"]})
        changes = {"config": {"timeout": None, "max_retries": 2}, "is_active": False}
        changed = store.providers.update(made.id, changes)
        assert changed.config == {"models": ["a"], "max_retries": 2}
        assert not changed.is_active
        assert changed.updated_at > made.updated_at
        assert (changed.name, changed.base_url) == (made.name, made.base_url)

    def test_a_config_that_does_not_fit_the_type_is_refused(self, store: Store) -> None:
        wrong = lambda: store.provider(config={"timeout": 0})  # noqa: E731
        assert refused("invalid_request", wrong).param == "config.timeout"
        azure = store.provider(provider_type="azure", config={"api_version": "v1"})
        change = lambda: store.providers.update(azure.id, {"provider_type": "openai"})  # noqa: E731
        assert refused("invalid_request", change).param == "config.api_version"
        assert store.providers.get(azure.id) == azure
        both = {"provider_type": "openai", "config": {"api_version": None}}
        assert store.providers.update(azure.id, both).config == {}

    def test_at_most_one_is_the_default(self, store: Store) -> None:
        first = store.provider("a", is_default=True)
        entry = draft("provider.create")
        second = store.provider("b", is_default=True, audit=entry)
        assert not store.providers.get(first.id).is_default
        assert written(store, entry).details["no_longer_default"] == [first.id]
        store.providers.update(first.id, {"is_default": True})
        assert store.providers.get(first.id).is_default
        assert not store.providers.get(second.id).is_default
        store.providers.update(first.id, {"is_default": False})
        assert not any(provider.is_default for provider in store.providers.list())

    def test_two_that_become_the_default_at_once(self, store: Store) -> None:
        made = [store.provider(name) for name in "abcd"]
        threads = [
            threading.Thread(target=store.providers.update, args=(one.id, {"is_default": True}))
            for one in made
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(provider.is_default for provider in store.providers.list()) == 1

    def test_deleting_takes_its_keys_along(self, store: Store) -> None:
        made, other = store.provider("a"), store.provider("b")
        key, kept = store.provider_key(made), store.provider_key(other)
        KeyHealth(store.database).write([KeyReport(key.id, "m"), KeyReport(kept.id, "m")])
        entry = draft("provider.delete")
        assert store.providers.delete(made.id, entry) == made
        refused("not_found", lambda: store.providers.get(made.id))
        assert store.provider_keys.list() == [kept]
        assert [row.key_id for row in KeyHealth(store.database).list()] == [kept.id]
        details = written(store, entry).details
        assert details["provider_id"] == made.id
        assert details["before"]["name"] == "a"
        assert details["deleted_keys"] == 1
        assert "after" not in details
        refused("not_found", lambda: store.providers.delete(made.id))

    def test_deleting_one_in_use_names_the_mappings(self, store: Store) -> None:
        made = store.provider()
        for number in range(12):
            store.mapping(made, f"alias-{number:02}")
        message = str(refused("conflict", lambda: store.providers.delete(made.id)))
        assert "`alias-00`, `alias-01`" in message
        assert "`alias-09`, …." in message
        assert store.providers.get(made.id) == made

    def test_writes_say_who_changed_what(self, store: Store) -> None:
        entry = draft("provider.create")
        made = store.provider(audit=entry)
        details = written(store, entry).details
        assert details["provider_id"] == made.id
        assert details["after"]["base_url"] == "https://api.openai.com"
        entry = draft("provider.update")
        store.providers.update(made.id, {"name": "new"}, entry)
        assert written(store, entry).details == {
            "provider_id": made.id,
            "before": {"name": "openai"},
            "after": {"name": "new"},
        }


class TestProviderKeys:
    def test_what_goes_in_comes_out(self, store: Store) -> None:
        provider = store.provider()
        made = store.provider_key(provider, weight=0, models=["gpt-*", "☃"])
        assert store.provider_keys.get(made.id) == made
        assert (made.provider_id, made.name, made.mask) == (provider.id, "team-a", "mask-team-a")
        assert (made.weight, made.models, made.is_active) == (0, ("gpt-*", "☃"), True)
        refused("not_found", lambda: store.provider_keys.get(ABSENT))

    def test_the_value_is_stored_encrypted(self, store: Store) -> None:
        key = store.provider_key(store.provider())
        stored = store.cell("SELECT value FROM provider_keys WHERE id = ?", key.id)
        assert stored.startswith("v1:")
        assert "secret" not in stored

    def test_needs_a_provider(self, store: Store) -> None:
        create = lambda: store.provider_keys.create(ABSENT, "a", "v", "m")  # noqa: E731
        assert refused("invalid_request", create).param == "provider_id"

    def test_names_are_unique_within_a_provider(self, store: Store) -> None:
        one, two = store.provider("a"), store.provider("b")
        store.provider_key(one)
        other = store.provider_key(one, "other")
        store.provider_key(two)
        assert refused("conflict", lambda: store.provider_key(one)).param == "name"
        update = lambda: store.provider_keys.update(other.id, {"name": "team-a"})  # noqa: E731
        assert refused("conflict", update).param == "name"

    def test_lists_by_name_in_pages(self, store: Store) -> None:
        one, two = store.provider("a"), store.provider("b")
        for provider, name in ((one, "y"), (two, "x"), (two, "y"), (one, "z")):
            store.provider_key(provider, name)
        everything = store.provider_keys.list()
        assert [key.name for key in everything] == ["x", "y", "y", "z"]
        paged, last = [], None
        while page := store.provider_keys.list(limit=1, after=last):
            paged += page
            last = page[-1].id
        assert paged == everything
        assert [key.name for key in store.provider_keys.list(two.id)] == ["x", "y"]
        assert refused("invalid_request", lambda: store.provider_keys.list(after=ABSENT)).param

    def test_a_new_value_keeps_the_id_and_the_health(self, store: Store) -> None:
        made = store.provider_key(store.provider())
        health = KeyHealth(store.database)
        health.write([KeyReport(made.id, "m", cooling=600, success_count=3)])
        entry = draft("key.update")
        changes = {"value": "sk-other-secret", "mask": made.mask}
        changed = store.provider_keys.update(made.id, changes, entry)
        assert changed.id == made.id
        [secret] = RoutingTables(store.database, store.cipher).read().keys
        assert secret.value == "sk-other-secret"
        # The cooldowns were those of the old value.
        whole, model = health.list(made.id)
        assert (whole.model, model.model, model.success_count) == ("", "m", 3)
        assert model.cooling_until is None
        assert model.reset_at == whole.reset_at is not None
        details = written(store, entry).details
        assert details == {
            "provider_key_id": made.id,
            "before": {"mask": made.mask},
            "after": {"mask": made.mask},
        }

    def test_changes_only_what_is_named(self, store: Store) -> None:
        made = store.provider_key(store.provider(), models=["a"])
        changed = store.provider_keys.update(made.id, {"models": [], "is_active": False})
        assert (changed.models, changed.is_active) == ((), False)
        assert (changed.name, changed.mask, changed.weight) == (made.name, made.mask, made.weight)
        refused("not_found", lambda: store.provider_keys.update(ABSENT, {"weight": 1}))

    def test_deletes(self, store: Store) -> None:
        made = store.provider_key(store.provider())
        KeyHealth(store.database).write([KeyReport(made.id, "m")])
        entry = draft("key.delete")
        assert store.provider_keys.delete(made.id, entry) == made
        assert store.provider_keys.list() == []
        assert KeyHealth(store.database).list() == []
        assert written(store, entry).details["provider_key_id"] == made.id
        refused("not_found", lambda: store.provider_keys.delete(made.id))


class TestMappings:
    def test_what_goes_in_comes_out(self, store: Store) -> None:
        provider = store.provider()
        config = {"temperature": 0.7, "drop": ["seed"]}
        made = store.mapping(provider, order_index=3, weight=2, config=config)
        assert store.mappings.get(made.id) == made
        assert (made.alias_name, made.provider_id) == ("fast", provider.id)
        assert (made.provider_model_name, made.order_index, made.weight) == ("gpt-5", 3, 2)
        assert (made.config, made.is_default) == (config, False)
        refused("not_found", lambda: store.mappings.get(ABSENT))

    def test_needs_a_provider_here_or_in_the_configuration_file(self, store: Store) -> None:
        create = lambda: store.mappings.create("a", ABSENT, "m")  # noqa: E731
        assert refused("invalid_request", create).param == "provider_id"
        mappings = Mappings(store.database, lambda: {ABSENT})
        assert mappings.create("a", ABSENT, "m").provider_id == ABSENT

    def test_a_wrong_config_is_refused(self, store: Store) -> None:
        provider = store.provider()
        create = lambda: store.mapping(provider, config={"drop": "seed"})  # noqa: E731
        assert refused("invalid_request", create).param == "config.drop"
        made = store.mapping(provider)
        wrong = {"config": {"routing": {"timeout": -1}}}
        update = lambda: store.mappings.update(made.id, wrong)  # noqa: E731
        assert refused("invalid_request", update).param == "config.routing.timeout"

    def test_an_alias_has_each_target_once(self, store: Store) -> None:
        provider = store.provider()
        store.mapping(provider)
        other = store.mapping(provider, model="gpt-6")
        store.mapping(provider, alias="other")
        refused("conflict", lambda: store.mapping(provider))
        change = {"provider_model_name": "gpt-5"}
        refused("conflict", lambda: store.mappings.update(other.id, change))

    def test_an_alias_may_have_the_name_of_a_target(self, store: Store) -> None:
        provider = store.provider()
        store.mapping(provider, alias="gpt-5", model="gpt-5")
        store.mapping(provider, alias="gpt-4", model="gpt-5")

    def test_lists_by_alias_then_order_in_pages(self, store: Store) -> None:
        provider = store.provider()
        for alias, model, order in (("b", "x", 0), ("a", "y", 1), ("a", "z", 0), ("a", "w", 1)):
            store.mapping(provider, alias, model, order_index=order)
        everything = store.mappings.list()
        assert [mapping.alias_name for mapping in everything] == ["a", "a", "a", "b"]
        assert [mapping.order_index for mapping in everything] == [0, 1, 1, 0]
        paged, last = [], None
        while page := store.mappings.list(limit=1, after=last):
            paged += page
            last = page[-1].id
        assert paged == everything
        assert store.mappings.list("b") == everything[3:]
        assert refused("invalid_request", lambda: store.mappings.list(after=ABSENT)).param

    def test_at_most_one_is_the_default(self, store: Store) -> None:
        provider = store.provider()
        first = store.mapping(provider, "a", is_default=True)
        second = store.mapping(provider, "b")
        entry = draft("mapping.update")
        store.mappings.update(second.id, {"is_default": True}, entry)
        assert [mapping.is_default for mapping in store.mappings.list()] == [False, True]
        assert written(store, entry).details["no_longer_default"] == [first.id]
        store.mapping(provider, "c", is_default=True)
        defaults = [mapping.is_default for mapping in store.mappings.list()]
        assert defaults == [False, False, True]

    def test_config_is_changed_by_a_merge_patch(self, store: Store) -> None:
        made = store.mapping(store.provider(), config={"defaults": {"a": 1, "b": 2}})
        changed = store.mappings.update(made.id, {"config": {"defaults": {"a": None}}})
        assert changed.config == {"defaults": {"b": 2}}

    def test_replaces_the_targets_of_an_alias(self, store: Store) -> None:
        provider = store.provider()
        stays = store.mapping(provider, model="stays", order_index=0, config={"a": 1})
        goes = store.mapping(provider, model="goes", order_index=1, is_default=True)
        other = store.mapping(provider, "other")
        targets = [
            MappingTarget(provider.id, "new", 0, weight=2, config={"b": 1}),
            MappingTarget(provider.id, "stays", 1, is_default=True),
        ]
        entry = draft("mapping.replace")
        found = store.mappings.replace("fast", targets, entry)
        assert found == store.mappings.list("fast")
        assert [mapping.provider_model_name for mapping in found] == ["new", "stays"]
        assert (found[0].weight, found[0].config) == (2, {"b": 1})
        assert (found[1].id, found[1].created_at) == (stays.id, stays.created_at)
        assert (found[1].config, found[1].is_default) == ({}, True)
        refused("not_found", lambda: store.mappings.get(goes.id))
        assert store.mappings.get(other.id) == other
        details = written(store, entry).details
        assert details["alias_name"] == "fast"
        assert [one["provider_model_name"] for one in details["before"]] == ["stays", "goes"]
        assert [one["provider_model_name"] for one in details["after"]] == ["new", "stays"]
        assert store.mappings.replace("fast", []) == []
        assert store.mappings.list() == [other]

    def test_a_list_with_an_error_changes_nothing(self, store: Store) -> None:
        provider = store.provider()
        made = store.mapping(provider)
        good = MappingTarget(provider.id, "x", 0)
        for targets in (
            [good, MappingTarget(ABSENT, "x", 1)],
            [good, good],
            [good, MappingTarget(provider.id, "y", 1, config={"drop": 1})],
            [MappingTarget(provider.id, name, 0, is_default=True) for name in "xy"],
        ):
            refused("invalid_request", lambda t=targets: store.mappings.replace("fast", t))
        assert store.mappings.list() == [made]

    def test_deletes(self, store: Store) -> None:
        made = store.mapping(store.provider())
        entry = draft("mapping.delete")
        assert store.mappings.delete(made.id, entry) == made
        assert store.mappings.list() == []
        assert written(store, entry).details["mapping_id"] == made.id
        refused("not_found", lambda: store.mappings.delete(made.id))


class TestRevision:
    def test_every_write_is_announced(self, store: Store) -> None:
        provider = store.provider()
        key, mapping = store.provider_key(provider), store.mapping(provider)
        targets = [MappingTarget(provider.id, "x", 0)]
        for call in (
            lambda: store.provider("other"),
            lambda: store.providers.update(provider.id, {"is_active": False}),
            lambda: store.provider_key(provider, "other"),
            lambda: store.provider_keys.update(key.id, {"weight": 5}),
            lambda: store.provider_keys.delete(key.id),
            lambda: store.mapping(provider, "other"),
            lambda: store.mappings.update(mapping.id, {"weight": 5}),
            lambda: store.mappings.delete(mapping.id),
            lambda: store.mappings.replace("fast", targets),
            lambda: store.mappings.replace("fast", []),
            lambda: store.mappings.replace("other", []),
            lambda: store.providers.delete(provider.id),
        ):
            assert bumped(store, call)

    def test_reading_and_health_are_not(self, store: Store) -> None:
        key = store.provider_key(store.provider())
        tables, health = RoutingTables(store.database, store.cipher), KeyHealth(store.database)
        assert not bumped(store, tables.read)
        assert not bumped(store, lambda: health.write([KeyReport(key.id, "m", 5)]))
        assert not bumped(store, lambda: health.reset(key.id))

    def test_a_write_that_fails_is_not(self, store: Store) -> None:
        provider = store.provider()
        store.mapping(provider)
        with pytest.raises(ClientError):
            store.providers.delete(provider.id)
        assert not bumped(store, lambda: None)
        delete = lambda: refused("conflict", lambda: store.providers.delete(provider.id))  # noqa: E731
        assert not bumped(store, delete)

    def test_is_among_the_changes(self, store: Store) -> None:
        changes = Changes(store.database)
        start = changes.now() - 1
        provider = store.provider()
        found = changes.since(start)
        assert [change.id for change in found.changes] == [ROUTING_REVISION]
        later = changes.since(found.changes[0].updated_at)
        assert later.changes == []
        store.providers.delete(provider.id)
        assert [change.id for change in changes.since(start).changes] == [ROUTING_REVISION]

    def test_grows_even_if_the_clock_was_put_back(self, store: Store) -> None:
        ahead = Changes(store.database).now() + 3600 * 1_000_000
        sql = "UPDATE revisions SET updated_at = ?"
        store.database.run(lambda session: session.execute(sql, (ahead,)))
        assert bumped(store, store.provider)

    def test_a_lost_row_comes_back(self, store: Store) -> None:
        store.database.run(lambda session: session.execute("DELETE FROM revisions"))
        store.provider()
        assert store.cell("SELECT COUNT(*) FROM revisions WHERE name = ?", ROUTING_REVISION) == 1


class TestRoutingTables:
    def test_reads_everything(self, store: Store) -> None:
        tables = RoutingTables(store.database, store.cipher)
        assert tables.read().providers == ()
        b, a = store.provider("b"), store.provider("a", is_active=False)
        key = store.provider_key(b)
        second = store.mapping(b, model="second", order_index=1)
        first = store.mapping(a, model="first")
        found = tables.read()
        assert found.providers == (a, b)
        assert found.mappings == (first, second)
        assert [(secret.record, secret.value) for secret in found.keys] == [
            (key, "sk-secret-of-team-a")
        ]
        assert found.unreadable_keys == ()
        assert "secret-of" not in repr(found)

    def test_a_key_that_cannot_be_decrypted_fails_no_other(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        provider = store.provider()
        good, bad = store.provider_key(provider, "good"), store.provider_key(provider, "bad")
        sql = "UPDATE provider_keys SET value = ? WHERE id = ?"
        stored = store.cell("SELECT value FROM provider_keys WHERE id = ?", good.id)
        store.database.run(lambda session: session.execute(sql, (stored, bad.id)))
        tables = RoutingTables(store.database, store.cipher)
        for _ in range(2):
            found = tables.read()
            assert [secret.record.id for secret in found.keys] == [good.id]
            assert found.unreadable_keys == (bad.id,)
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert bad.id in errors[0].getMessage()
        blind = RoutingTables(store.database, Cipher(b"x" * 32)).read()
        assert blind.keys == ()
        assert blind.providers == (provider,)

    def test_a_value_in_plaintext_is_encrypted_on_sight(self, store: Store) -> None:
        key = store.provider_key(store.provider())
        sql = "UPDATE provider_keys SET value = ?"
        store.database.run(lambda session: session.execute(sql, ("sk-in-clear",)))
        tables = RoutingTables(store.database, store.cipher)
        assert not bumped(store, tables.read)
        assert store.cell("SELECT value FROM provider_keys").startswith("v1:")
        assert [secret.value for secret in tables.read().keys] == ["sk-in-clear"]
        assert store.provider_keys.get(key.id).updated_at == key.updated_at


class TestKeyHealth:
    def test_counts_are_added(self, store: Store) -> None:
        health = KeyHealth(store.database)
        health.write([])
        health.write([KeyReport("k", "m", status=200, success_count=2)])
        health.write(
            [
                KeyReport("k", "m", cooling=60, status=429, failure_count=1),
                KeyReport("k", "", success_count=1),
                KeyReport("a", "m", failure_count=4),
            ]
        )
        found = health.list()
        assert [(row.key_id, row.model) for row in found] == [("a", "m"), ("k", ""), ("k", "m")]
        row = found[2]
        assert (row.success_count, row.failure_count, row.last_status) == (2, 1, 429)
        assert row.cooling_until is not None
        assert 55 < (row.cooling_until - row.updated_at).total_seconds() < 65
        assert row.last_used_at is not None
        assert health.list("a") == found[:1]

    def test_a_shorter_cooldown_shortens_nothing(self, store: Store) -> None:
        health = KeyHealth(store.database)
        health.write([KeyReport("k", "m", cooling=600)])
        [long] = health.list()
        health.write([KeyReport("k", "m", cooling=1), KeyReport("k", "m", success_count=1)])
        [row] = health.list()
        assert row.cooling_until == long.cooling_until
        health.write([KeyReport("k", "m", cooling=6000)])
        [row] = health.list()
        assert row.cooling_until > long.cooling_until  # type: ignore[operator]

    def test_a_reset_ends_all_cooldowns_of_the_key(self, store: Store) -> None:
        health = KeyHealth(store.database)
        health.write([KeyReport("k", "m", 600, failure_count=3), KeyReport("other", "m", 600)])
        since = health.read().now
        entry = draft("key.reset")
        health.reset("k", entry)
        assert written(store, entry).details == {"provider_key_id": "k"}
        changed = health.read(since - 1).records
        assert [(row.key_id, row.model) for row in changed] == [("k", ""), ("k", "m")]
        assert all(row.cooling_until is None for row in changed)
        assert all(row.reset_at == row.updated_at for row in changed)
        assert changed[1].failure_count == 3
        [other] = health.list("other")
        assert other.cooling_until is not None
        health.write([KeyReport("k", "m", 60)])
        assert health.list("k")[1].cooling_until is not None

    def test_what_got_no_report_for_long_is_pruned(self, store: Store) -> None:
        health = KeyHealth(store.database)
        health.write([KeyReport("k", model) for model in "abc"])
        assert health.prune(NOW - timedelta(days=1), 10) == 0
        later = from_micros(health.read().now + 1)
        assert health.prune(later, 2) == 2
        assert health.prune(later, 2) == 1
        assert health.list() == []

    def test_reads_what_changed(self, store: Store) -> None:
        health = KeyHealth(store.database)
        assert health.read().records == []
        health.write([KeyReport("k", "a"), KeyReport("k", "b")])
        found = health.read()
        assert [row.model for row in found.records] == ["a", "b"]
        newest = to_micros(found.records[-1].updated_at)
        assert found.now >= newest
        health.write([KeyReport("k", "a", success_count=1)])
        assert [row.model for row in health.read(newest).records] == ["a"]

    def test_many_workers_at_once_lose_nothing(self, store: Store) -> None:
        health = KeyHealth(store.database)

        def work() -> None:
            for _ in range(5):
                health.write([KeyReport("k", m, success_count=1) for m in ("b", "a")])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [row.success_count for row in health.list()] == [20, 20]
