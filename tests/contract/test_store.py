"""One behaviour of the store, on every database."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
import pytest

from proxy.core.errors import CipherError, ClientError
from proxy.crypto.cipher import Cipher
from proxy.store import tokens as tokens_module
from proxy.store.audit import PendingEntry
from proxy.store.changes import Changes
from proxy.store.counters import MAX_LEASED, ONE_BY_ONE
from proxy.store.database import Conflict
from proxy.store.grants import MAX_ANCESTORS
from proxy.store.projects import Projects, names_of_caching_projects
from proxy.store.records import AccessToken
from proxy.store.rows import to_micros
from tests.support.stored_records import ABSENT, LATER, NOW, Store


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


class TestDatabase:
    def test_commits_when_the_work_returns(self, store: Store) -> None:
        store.project()
        assert store.cell("SELECT COUNT(*) FROM projects") == 1

    def test_rolls_back_whatever_is_raised(self, store: Store) -> None:
        project = store.project()

        class Stop(BaseException):
            pass

        for error in (Stop, ValueError):

            def work(session: Any, error: type[BaseException] = error) -> None:
                changed = session.execute(
                    "UPDATE projects SET name = ? WHERE id = ?", ("x", project.id)
                )
                assert changed == 1
                raise error

            with pytest.raises(error):
                store.database.run(work)
        assert store.projects.get(project.id).name == "Acme"

    def test_an_unchanged_row_counts_as_matched(self, store: Store) -> None:
        store.project()
        work = "UPDATE projects SET name = name"
        assert store.database.run(lambda session: session.execute(work)) == 1

    def test_unique_violations_are_conflicts(self, store: Store) -> None:
        work = "INSERT INTO schema_migrations (version, name, applied_at) VALUES (?, ?, ?)"
        with pytest.raises(Conflict):
            store.database.run(lambda session: session.execute(work, (1, "again", 0)))

    def test_percent_signs_and_quotes_are_plain_text(self, store: Store) -> None:
        name = "100% ?'\"\\ %s ☃ 🦫"
        assert store.project(name).name == name

    def test_the_shared_clock_is_near_the_local_one(self, store: Store) -> None:
        micros = store.database.run(lambda session: session.now())
        assert abs(micros / 1e6 - datetime.now(UTC).timestamp()) < 60

    def test_a_check_succeeds(self, store: Store) -> None:
        store.database.check()


class TestProjects:
    def test_a_created_record_is_read_back(self, store: Store) -> None:
        made = store.project(description="text", metadata={"team": ["a", 1, None, "☃"]})
        assert made == store.projects.get(made.id)
        assert made.metadata == {"team": ["a", 1, None, "☃"]}
        assert (made.name, made.description, made.api_key) == ("Acme", "text", "sk-real-...-key")
        assert made.is_active
        assert made.deactivated_at is None
        assert made.created_at == made.updated_at
        assert made.created_at.tzinfo is UTC

    def test_the_upstream_key_is_stored_encrypted(self, store: Store) -> None:
        stored = store.cell("SELECT upstream_key FROM projects WHERE id = ?", store.project().id)
        assert stored.startswith("v1:")
        assert "real" not in stored

    def test_a_long_upstream_key_and_name_fit(self, store: Store) -> None:
        made = store.projects.create("ü" * 255, "k" * 4096, "mask")
        token = store.token(made)
        grant = store.grants.find(f"{1:064x}")
        assert grant is not None
        assert (grant.upstream_key, grant.token) == ("k" * 4096, token)

    def test_stored_responses_are_of_one_epoch(self, store: Store) -> None:
        made, other = store.project(), store.project("other")
        store.token(made)
        assert (made.cache_epoch, other.cache_epoch) == (0, 0)
        purged = store.projects.purge_responses(made.id)
        assert (purged.cache_epoch, purged.updated_at > made.updated_at) == (1, True)
        assert purged == store.projects.get(made.id)
        grant = store.grants.find(f"{1:064x}")
        assert grant is not None
        assert grant.project == purged
        assert store.projects.get(other.id).cache_epoch == 0
        refused("not_found", lambda: store.projects.purge_responses(ABSENT))

    def test_a_new_upstream_key_begins_an_epoch(self, store: Store) -> None:
        made = store.project(policy={"providers": ["*"]})
        for number, upstream_key in enumerate(("sk-new", "sk-newer", "")):
            mask = upstream_key and "********"
            changes = {"upstream_key": upstream_key, "upstream_key_mask": mask}
            assert store.projects.update(made.id, changes).cache_epoch == number + 1
        changed = store.projects.update(made.id, {"name": "b", "policy": {"cache": "on"}})
        assert changed.cache_epoch == 3

    def test_workers_learn_of_an_epoch_as_of_any_change(self, store: Store) -> None:
        made, _ = store.project(), store.project("other")
        changes = Changes(store.database)
        before = changes.now()
        purged = store.projects.purge_responses(made.id)
        found = changes.since(before).changes
        assert [(each.id, each.updated_at) for each in found] == [
            (made.id, to_micros(purged.updated_at))
        ]

    def test_a_purge_is_audited_as_its_caller_says(self, store: Store) -> None:
        made = store.project()
        audit = PendingEntry("project.update", "management", details={"deleted": 3})
        store.projects.purge_responses(made.id, audit)
        assert audit.entry is not None
        assert (audit.entry.project_id, audit.entry.details) == (made.id, {"deleted": 3})
        lost = PendingEntry("project.update", "management")
        refused("not_found", lambda: store.projects.purge_responses(ABSENT, lost))
        assert lost.entry is None

    def test_who_asks_for_a_cache(self, store: Store) -> None:
        for name, cache in (("b", "on"), ("a", "opt_in"), ("c", "off"), ("d", None)):
            store.project(name, policy={"cache": cache, "allowed_models": ['"cache"']})
        gone = store.project("gone", policy={"cache": "on"})
        store.projects.deactivate(gone.id)
        assert names_of_caching_projects(store.database) == ["a", "b"]

    def test_epochs_are_not_lost_among_changes(self, store: Store) -> None:
        made = store.project()
        purges = [gevent.spawn(store.projects.purge_responses, made.id) for _ in range(8)]
        gevent.joinall(purges, timeout=30, raise_error=True)
        assert store.projects.get(made.id).cache_epoch == 8

    def test_fields_that_need_each_other(self, store: Store) -> None:
        def create(**policy: str) -> Any:
            return store.project(policy=policy)

        assert refused("invalid_request", lambda: create(coalesce="on")).param == "coalesce"
        refused("invalid_request", lambda: create(coalesce="on", cache="off"))
        made = create(coalesce="on", cache="opt_in")
        for value in (None, "off"):
            change = {"policy": {"cache": value}}
            refused("invalid_request", lambda change=change: store.projects.update(made.id, change))
        assert store.projects.get(made.id) == made
        both = {"policy": {"cache": None, "coalesce": None}}
        assert store.projects.update(made.id, both).policy == {}
        alone = {"policy": {"coalesce": "on"}}
        refused("invalid_request", lambda: store.projects.update(made.id, alone))
        store.projects.update(made.id, {"policy": {"cache": "on"}})
        changed = store.projects.update(made.id, alone)
        assert changed.policy == {"cache": "on", "coalesce": "on"}

    def test_a_project_without_an_upstream_key(self, store: Store) -> None:
        made = store.projects.create("Acme", policy={"providers": ["*"]})
        store.token(made)
        grant = store.grants.find(f"{1:064x}")
        assert grant is not None
        assert (grant.upstream_key, grant.project.api_key) == ("", "")

    def test_a_project_without_key_and_providers_is_refused(self, store: Store) -> None:
        refused("invalid_request", lambda: store.projects.create("a", policy={"providers": []}))
        made = store.projects.create("Acme", policy={"providers": ["*"]})
        change = {"policy": {"providers": None}}
        error = refused("invalid_request", lambda: store.projects.update(made.id, change))
        assert error.param == "providers"
        keyed = store.project("keyed", policy={"providers": ["*"]})
        store.projects.update(keyed.id, change)
        gone = {"upstream_key": "", "upstream_key_mask": ""}
        error = refused("invalid_request", lambda: store.projects.update(keyed.id, gone))
        assert error.param == "api_key"
        assert store.projects.get(keyed.id).api_key == keyed.api_key

    def test_names_are_unique_and_case_matters(self, store: Store) -> None:
        store.project("Acme")
        other = store.project("acme")
        store.project("Acmé")
        assert refused("conflict", lambda: store.project("Acme")).param == "name"
        refused("conflict", lambda: store.projects.update(other.id, {"name": "Acme"}))
        assert store.projects.update(other.id, {"name": "acme"}).name == "acme"

    def test_lists_by_name_in_pages(self, store: Store) -> None:
        for name in ("b", "C", "a", "é", "B"):
            store.project(name)
        everything = store.projects.list()
        assert [project.name for project in everything] == ["B", "C", "a", "b", "é"]
        first = store.projects.list(limit=2)
        assert [project.name for project in first] == ["B", "C"]
        rest = store.projects.list(limit=9, after=first[-1].id)
        assert [project.name for project in rest] == ["a", "b", "é"]
        assert refused("invalid_request", lambda: store.projects.list(after=ABSENT)).param

    def test_listing_decrypts_nothing(self, store: Store) -> None:
        store.project()
        blind = Projects(store.database, Cipher(b"x" * 32))
        assert [project.api_key for project in blind.list()] == ["sk-real-...-key"]

    def test_changes_only_what_is_named(self, store: Store) -> None:
        made = store.project(description="d", metadata={"a": 1})
        changed = store.projects.update(made.id, {"description": None})
        assert changed.description is None
        assert (changed.name, changed.metadata) == (made.name, made.metadata)
        assert changed.updated_at > made.updated_at
        assert store.projects.update(made.id, {"metadata": {}}).metadata == {}

    def test_a_policy_changes_field_by_field(self, store: Store) -> None:
        made = store.project(policy={"a": ["☃", 1], "b": None})
        assert made.policy == {"a": ["☃", 1]}
        changed = store.projects.update(made.id, {"policy": {"b": {"c": False}}})
        assert changed.policy == {"a": ["☃", 1], "b": {"c": False}}
        assert changed.updated_at > made.updated_at
        changed = store.projects.update(made.id, {"name": "x", "policy": {"a": None, "d": None}})
        assert (changed.name, changed.policy) == ("x", {"b": {"c": False}})
        assert store.projects.update(made.id, {"description": "d"}).policy == {"b": {"c": False}}
        assert [project.policy for project in store.projects.list()] == [{"b": {"c": False}}]

    def test_an_empty_policy_is_null(self, store: Store) -> None:
        made = store.project(policy={"a": None})
        assert made.policy == {}
        assert store.cell("SELECT policy FROM projects") is None
        store.projects.update(made.id, {"policy": {"a": 1}})
        assert store.projects.update(made.id, {"policy": {"a": None}}).policy == {}
        assert store.cell("SELECT policy FROM projects") is None

    def test_policy_changes_at_once_are_all_kept(self, store: Store) -> None:
        made = store.project()
        names = [f"field_{number}" for number in range(10)]
        update = store.projects.update
        jobs = [gevent.spawn(update, made.id, {"policy": {name: 1}}) for name in names]
        gevent.joinall(jobs, raise_error=True)
        assert store.projects.get(made.id).policy == dict.fromkeys(names, 1)

    def test_a_long_policy_fits(self, store: Store) -> None:
        policy = {"allowed": ["m" * 100] * 1000}  # more than a TEXT of MySQL holds
        assert store.project(policy=policy).policy == policy

    def test_a_new_upstream_key_is_used_from_then_on(self, store: Store) -> None:
        made = store.project()
        store.token(made)
        changes = {"upstream_key": "sk-new", "upstream_key_mask": "********"}
        assert store.projects.update(made.id, changes).api_key == "********"
        grant = store.grants.find(f"{1:064x}")
        assert grant is not None
        assert grant.upstream_key == "sk-new"

    def test_fields_that_cannot_be_changed_are_refused(self, store: Store) -> None:
        made = store.project()
        with pytest.raises(ValueError, match="id"):
            store.projects.update(made.id, {"id": "x"})
        with pytest.raises(ValueError, match="mask"):
            store.projects.update(made.id, {"upstream_key": "x"})

    def test_deactivation_revokes_all_tokens_and_can_be_undone(self, store: Store) -> None:
        made = store.project()
        token = store.token(made)
        gone = store.projects.deactivate(made.id)
        assert not gone.is_active
        assert gone.deactivated_at == gone.updated_at
        revoked = store.tokens.get(token.id)
        assert not revoked.is_active
        again = store.projects.deactivate(made.id)
        assert again.deactivated_at == gone.deactivated_at
        assert store.tokens.get(token.id) == revoked
        back = store.projects.update(made.id, {"is_active": True})
        assert back.is_active
        assert back.deactivated_at is None
        assert not store.tokens.get(token.id).is_active

    def test_deactivating_alone_leaves_the_tokens(self, store: Store) -> None:
        made = store.project()
        token = store.token(made)
        store.projects.update(made.id, {"is_active": False})
        assert store.tokens.get(token.id).is_active

    def test_unknown_ids_are_not_found(self, store: Store) -> None:
        refused("not_found", lambda: store.projects.get(ABSENT))
        refused("not_found", lambda: store.projects.update(ABSENT, {"name": "x"}))
        refused("not_found", lambda: store.projects.deactivate(ABSENT))


class TestTokens:
    def test_a_created_record_is_read_back(self, store: Store) -> None:
        project = store.project()
        made = store.token(project, name="ci ☃", max_requests=2**63 - 1)
        assert made == store.tokens.get(made.id)
        assert (made.name, made.project_id, made.expires_at) == ("ci ☃", project.id, LATER)
        assert (made.token, made.max_requests) == ("sk-0001...mask", 2**63 - 1)
        assert made.is_active
        assert (made.revoked_at, made.last_used_at) == (None, None)
        assert (made.request_count, made.cache_hit_count, made.tokens_used) == (0, 0, 0)
        assert (made.policy, made.parent_id) == ({}, None)

    def test_a_policy_of_its_own(self, store: Store) -> None:
        made = store.token(store.project(), policy={"can_mint": True, "allowed_ips": None})
        assert made.policy == {"can_mint": True}
        assert store.tokens.get(made.id) == made

    def test_a_policy_changes_field_by_field(self, store: Store) -> None:
        made = store.token(store.project(), policy={"a": ["☃", 1], "b": None})
        assert made.policy == {"a": ["☃", 1]}
        changed = store.tokens.update(made.id, {"policy": {"a": None, "c": False}})
        assert (changed.policy, changed.name) == ({"c": False}, made.name)
        assert changed.updated_at > made.updated_at, "the workers must hear of it"
        assert store.tokens.update(made.id, {"name": "x"}).policy == {"c": False}
        assert store.tokens.update(made.id, {"policy": {"c": None}}).policy == {}
        assert store.cell("SELECT policy FROM tokens") is None

    def test_policy_changes_at_once_are_all_kept(self, store: Store) -> None:
        made, names = store.token(store.project()), [f"field{number}" for number in range(10)]
        update = store.tokens.update
        jobs = [gevent.spawn(update, made.id, {"policy": {name: 1}}) for name in names]
        gevent.joinall(jobs, timeout=60)
        assert store.tokens.get(made.id).policy == dict.fromkeys(names, 1)

    def test_needs_an_active_project(self, store: Store) -> None:
        project = store.project()
        store.projects.deactivate(project.id)
        refused("project_inactive", lambda: store.token(project))
        assert store.cell("SELECT COUNT(*) FROM tokens") == 0

    def test_needs_a_project(self, store: Store) -> None:
        project = store.project()
        store.database.run(lambda session: session.execute("DELETE FROM projects"))
        refused("not_found", lambda: store.token(project))

    def test_hashes_are_unique(self, store: Store) -> None:
        project = store.project()
        store.token(project)
        store._made = 0
        refused("conflict", lambda: store.token(project))

    def test_lists_newest_first_filtered_and_in_pages(self, store: Store) -> None:
        one, two = store.project("one"), store.project("two")
        made = [store.token(project) for project in (one, two, one, one)]
        store.tokens.revoke(made[2].id)
        tokens = store.tokens

        def ids(**filters: Any) -> list[int]:
            known = [token.id for token in made]
            return [known.index(token.id) for token in tokens.list(**filters)]

        assert ids() == [3, 2, 1, 0]
        assert ids(project_id=one.id) == [3, 2, 0]
        assert ids(project_id=one.id, active=True) == [3, 0]
        assert ids(active=False) == [2]
        assert ids(limit=2) == [3, 2]
        assert ids(limit=2, after=made[2].id) == [1, 0]
        assert ids(project_id=ABSENT) == []

    def test_changes_only_what_is_named(self, store: Store) -> None:
        made = store.token(store.project(), name="x", max_requests=5)
        later = LATER + timedelta(days=1)
        changed = store.tokens.update(made.id, {"max_requests": None, "expires_at": later})
        assert (changed.name, changed.max_requests, changed.expires_at) == ("x", None, later)
        assert changed.updated_at > made.updated_at
        with pytest.raises(ValueError, match="request_count"):
            store.tokens.update(made.id, {"request_count": 0})

    def test_revocation_can_be_undone(self, store: Store) -> None:
        made = store.token(store.project())
        first = store.tokens.revoke(made.id)
        assert not first.is_active
        assert first.revoked_at == first.updated_at
        assert store.tokens.revoke(made.id) == first
        back = store.tokens.update(made.id, {"is_active": True})
        assert back.is_active
        assert back.revoked_at is None
        assert back.updated_at > first.updated_at

    def test_revokes_by_the_hash_of_the_secret(self, store: Store) -> None:
        made = store.token(store.project())
        assert store.tokens.revoke_secret(f"{1:064x}") == store.tokens.get(made.id)
        assert not store.tokens.revoke_secret(f"{1:064x}").is_active
        refused("not_found", lambda: store.tokens.revoke_secret(f"{2:064x}"))

    def test_revokes_all_of_one_project(self, store: Store) -> None:
        one, two = store.project("one"), store.project("two")
        made = [store.token(project) for project in (one, one, one, two)]
        store.tokens.revoke(made[0].id)
        revoked = store.tokens.revoke_all(one.id)
        assert (revoked.revoked_count, revoked.already_revoked_count) == (2, 1)
        assert revoked.total_tokens == 3
        assert [token.id for token in store.tokens.list(active=True)] == [made[3].id]
        assert store.tokens.revoke_all(one.id).revoked_count == 0
        assert store.tokens.revoke_all(two.id).total_tokens == 1
        refused("not_found", lambda: store.tokens.revoke_all(ABSENT))

    def test_unknown_ids_are_not_found(self, store: Store) -> None:
        refused("not_found", lambda: store.tokens.get(ABSENT))
        refused("not_found", lambda: store.tokens.update(ABSENT, {"name": "x"}))
        refused("not_found", lambda: store.tokens.revoke(ABSENT))


class TestCounting:
    def test_permits_run_out_and_do_not_look_like_changes(self, store: Store) -> None:
        made = store.token(store.project(), max_requests=2)
        assert store.counters.permits_left(made.id) == 2
        assert [store.counters.lease_permits(made.id, NOW) for _ in range(3)] == [1, 1, 0]
        assert store.counters.permits_left(made.id) == 0
        used = store.tokens.get(made.id)
        assert (used.request_count, used.last_used_at) == (2, NOW)
        assert used.updated_at == made.updated_at
        assert store.counters.lease_permits(ABSENT, NOW) == 0
        assert store.counters.permits_left(ABSENT) == 0

    def test_without_a_limit_a_permit_is_always_leased(self, store: Store) -> None:
        made = store.token(store.project())
        assert [store.counters.lease_permits(made.id, NOW) for _ in range(3)] == [1, 1, 1]
        assert store.counters.permits_left(made.id) > 0
        assert store.tokens.get(made.id).request_count == 3

    def test_twenty_at_once_get_exactly_the_remaining_permits(self, store: Store) -> None:
        made = store.token(store.project(), max_requests=5)
        jobs = [gevent.spawn(store.counters.lease_permits, made.id, NOW) for _ in range(20)]
        gevent.joinall(jobs, raise_error=True)
        assert sum(job.value for job in jobs) == 5
        assert store.tokens.get(made.id).request_count == 5

    def test_blocks_while_many_remain_and_never_more_than_there_are(self, store: Store) -> None:
        made = store.token(store.project(), max_requests=600)
        granted = []
        while block := store.counters.lease_permits(made.id, NOW):
            granted.append(block)
        assert granted[0] == MAX_LEASED
        assert granted[-ONE_BY_ONE:] == [1] * ONE_BY_ONE
        assert sum(granted) == store.tokens.get(made.id).request_count == 600

    def test_returned_permits_can_be_leased_again(self, store: Store) -> None:
        made = store.token(store.project(), max_requests=1000)
        block = store.counters.lease_permits(made.id, NOW)
        store.counters.return_permits({made.id: block - 1, ABSENT: 3})
        after = store.tokens.get(made.id)
        assert after.request_count == 1
        assert after.updated_at == made.updated_at

    def test_many_leasing_and_returning_at_once_stay_within_the_limit(self, store: Store) -> None:
        made = store.token(store.project(), max_requests=400)
        used = 0

        def worker() -> None:
            nonlocal used
            while block := store.counters.lease_permits(made.id, NOW):
                spent = (block + 1) // 2
                used += spent
                if block > spent:
                    store.counters.return_permits({made.id: block - spent})

        gevent.joinall([gevent.spawn(worker) for _ in range(8)], raise_error=True)
        assert used == store.tokens.get(made.id).request_count == 400

    def test_counts_add_up_and_the_latest_use_stays(self, store: Store) -> None:
        project = store.project()
        one, two = store.token(project), store.token(project)
        entries = [(one.id, 2, 30, 0, LATER), (two.id, 1, 0, 4, NOW), (one.id, 3, 2**40, 1, NOW)]
        store.counters.add_counts(entries)
        store.counters.add_counts([(one.id, 1, 5, 2, NOW), (ABSENT, 1, 1, 1, NOW)])
        store.counters.add_counts([])
        first, second = store.tokens.get(one.id), store.tokens.get(two.id)
        assert (first.request_count, first.last_used_at) == (6, LATER)
        assert (second.request_count, second.last_used_at) == (1, NOW)
        assert first.updated_at == one.updated_at
        assert (first.cache_hit_count, second.cache_hit_count) == (3, 4)
        assert (first.tokens_used, second.tokens_used) == (2**40 + 35, 0)
        used = store.counters.tokens_used([one.id, ABSENT, two.id])
        assert used == {one.id: 2**40 + 35, two.id: 0}
        assert store.counters.tokens_used([]) == {}

    def test_many_flushes_of_the_same_tokens_do_not_deadlock(self, store: Store) -> None:
        project = store.project()
        made = [store.token(project) for _ in range(5)]
        entries = [(token.id, 1, 7, 2, NOW) for token in made]
        jobs = [
            gevent.spawn(store.counters.add_counts, entries if turn % 2 else entries[::-1])
            for turn in range(20)
        ]
        gevent.joinall(jobs, raise_error=True)
        found = [store.tokens.get(token.id) for token in made]
        assert {(token.request_count, token.tokens_used) for token in found} == {(20, 140)}
        assert {token.cache_hit_count for token in found} == {40}

    def test_no_token_slips_through_a_deactivation(self, store: Store) -> None:
        project = store.project()
        outcomes: list[str] = []

        def mint() -> None:
            try:
                store.token(project)
                outcomes.append("made")
            except ClientError as error:
                outcomes.append(error.code)

        jobs = [gevent.spawn(mint) for _ in range(8)]
        jobs.insert(4, gevent.spawn(store.projects.deactivate, project.id))
        gevent.joinall(jobs, raise_error=True)
        assert set(outcomes) <= {"made", "project_inactive"}
        assert store.tokens.list(active=True) == []


class TestGrants:
    def test_a_grant_has_token_project_and_key(self, store: Store) -> None:
        project = store.project(metadata={"a": 1}, policy={"b": 2})
        token = store.token(project)
        assert token.policy == {}
        store.database.run(
            lambda session: session.execute("UPDATE tokens SET policy = ?", ('{"c":3}',))
        )
        grant = store.grants.find(f"{1:064x}")
        assert grant is not None
        assert (grant.token, grant.project) == (store.tokens.get(token.id), project)
        assert (grant.token.policy, grant.project.policy) == ({"c": 3}, {"b": 2})
        assert grant.upstream_key == "sk-real-upstream-key"
        assert "real-upstream" not in repr(grant)

    def test_unknown_is_none_and_revoked_is_visible(self, store: Store) -> None:
        assert store.grants.find(f"{1:064x}") is None
        token = store.token(store.project())
        store.tokens.revoke(token.id)
        grant = store.grants.find(f"{1:064x}")
        assert grant is not None
        assert not grant.token.is_active

    def test_a_plaintext_key_is_read_once_and_rewritten(self, store: Store) -> None:
        project = store.project()
        store.token(project)
        plain = "UPDATE projects SET upstream_key = ? WHERE id = ?"
        store.database.run(lambda session: session.execute(plain, ("sk-plain", project.id)))
        for _ in range(2):
            grant = store.grants.find(f"{1:064x}")
            assert grant is not None
            assert grant.upstream_key == "sk-plain"
            stored = store.cell("SELECT upstream_key FROM projects WHERE id = ?", project.id)
            assert store.cipher.is_current(stored)
        assert store.projects.get(project.id).updated_at == project.updated_at

    def test_the_key_of_another_row_is_refused(self, store: Store) -> None:
        one, two = store.project("one"), store.project("two")
        store.token(one)
        stored = store.cell("SELECT upstream_key FROM projects WHERE id = ?", two.id)
        swap = "UPDATE projects SET upstream_key = ? WHERE id = ?"
        store.database.run(lambda session: session.execute(swap, (stored, one.id)))
        with pytest.raises(CipherError):
            store.grants.find(f"{1:064x}")


class TestFamilies:
    def family(self, store: Store, generations: int) -> list[AccessToken]:
        """A token, its child, its grandchild, …"""
        made = [store.token(store.project())]
        while len(made) < generations:
            lineage = [token.id for token in reversed(made)]
            made.append(store.token(store.projects.get(made[0].project_id), lineage=lineage))
        return made

    def test_a_grant_has_the_ancestors_nearest_first(self, store: Store) -> None:
        made = self.family(store, 3)
        assert [token.parent_id for token in made] == [None, made[0].id, made[1].id]
        store.tokens.revoke(made[0].id)
        for generation, token in enumerate(made):
            grant = store.grants.find(f"{generation + 1:064x}")
            assert grant is not None
            assert grant.token == store.tokens.get(token.id)
            ancestors = [store.tokens.get(older.id) for older in reversed(made[:generation])]
            assert list(grant.ancestors) == ancestors
            assert grant.rooted
            assert grant.token.is_active == (generation > 0), "a child stays a row like any other"

    def test_ancestors_are_bounded_even_in_a_circle(self, store: Store) -> None:
        made = self.family(store, MAX_ANCESTORS + 1)
        store.database.run(
            lambda session: session.execute(
                "UPDATE tokens SET parent_id = ? WHERE id = ?", (made[-1].id, made[0].id)
            )
        )
        grant = store.grants.find(f"{1:064x}")
        assert grant is not None
        assert len(grant.ancestors) == MAX_ANCESTORS
        assert not grant.rooted

    def test_a_grant_without_its_parent_is_not_rooted(self, store: Store) -> None:
        made = self.family(store, 3)
        store.database.run(
            lambda session: session.execute("DELETE FROM tokens WHERE id = ?", (made[0].id,))
        )
        for generation in (2, 3):
            grant = store.grants.find(f"{generation:064x}")
            assert grant is not None
            assert not grant.rooted

    def test_children_are_listed(self, store: Store) -> None:
        made = self.family(store, 3)
        assert store.tokens.list(parent_id=made[0].id) == [made[1]]
        assert store.tokens.list(parent_id=made[2].id) == []

    def test_a_family_is_bounded(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokens_module, "MAX_DESCENDANTS", 3)
        root, child, _ = self.family(store, 3)
        project = store.projects.get(root.project_id)
        expired = store.token(project, lineage=[root.id], expires_at=NOW - timedelta(hours=1))
        store.token(project, lineage=[root.id])
        store.token(project)  # of another family
        error = refused(
            "rate_limit_exceeded", lambda: store.token(project, lineage=[child.id, root.id])
        )
        assert error.retry_after
        store.tokens.revoke(child.id)  # and its child no longer counts
        store.token(project, lineage=[root.id])
        assert expired.parent_id == root.id

    def test_the_last_descendant_is_created_once(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens_module, "MAX_DESCENDANTS", 5)
        (root,) = self.family(store, 1)
        project = store.projects.get(root.project_id)

        def mint() -> bool:
            try:
                store.token(project, lineage=[root.id])
            except ClientError:
                return False
            return True

        jobs = [gevent.spawn(mint) for _ in range(12)]
        gevent.joinall(jobs, raise_error=True)
        assert [job.value for job in jobs].count(True) == 5
