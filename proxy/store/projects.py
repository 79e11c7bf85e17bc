"""The projects, each with one upstream key, encrypted here and decrypted only by ``grants.py``.

A project that only uses shared providers has no key: the empty string, encrypted like a key, with
an empty mask. A project is never deleted, only deactivated, so that records keep their owner.
"""

import uuid
from collections.abc import Mapping
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.crypto.cipher import Cipher
from proxy.policy.fields import check_together
from proxy.store.audit import PendingEntry, note, record
from proxy.store.database import Conflict, Database, Session, Value
from proxy.store.records import Project
from proxy.store.rows import (
    PROJECT_COLUMNS,
    assignments,
    changed_policy,
    merged_policy,
    policy_from,
    project_from,
    to_json,
)
from proxy.store.tokens import revoke_tokens_of

_SELECT: Final = f"SELECT {PROJECT_COLUMNS} FROM projects p "  # noqa: S608 - a constant
#: The fields that :meth:`Projects.update` may change.
_EDITABLE: Final = frozenset(
    {"name", "description", "metadata", "policy", "upstream_key", "upstream_key_mask", "is_active"}
)


class Projects:
    """The repository. All methods raise StoreError when the database does not respond."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    def create(
        self,
        name: str,
        upstream_key: str = "",
        upstream_key_mask: str = "",
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        policy: Mapping[str, Any] | None = None,
        audit: PendingEntry | None = None,
    ) -> Project:
        """Creates an active project. A ``policy`` field that is None counts as not set.

        Without an upstream key it must have ``providers``. Raises ClientError ``invalid_request``
        when it has neither, or the policy fields contradict each other, and ``conflict`` when the
        name is taken.
        """
        _require_upstream(upstream_key, policy or {}, "api_key")
        check_together(merged_policy({}, policy or {}))
        project_id = str(uuid.uuid4())
        sealed = self._seal(upstream_key, project_id)
        document = to_json(metadata)
        rules = changed_policy({}, policy or {})

        def work(session: Session) -> Project:
            now = session.now()
            session.execute(
                "INSERT INTO projects (id, name, description, metadata, policy, upstream_key, "
                "upstream_key_mask, is_active, created_at, updated_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?)",
                (
                    project_id,
                    name,
                    description,
                    document,
                    rules,
                    sealed,
                    upstream_key_mask,
                    now,
                    now,
                ),
            )
            return record(session, audit, None, _read(session, project_id))

        return self._run(work, name)

    def get(self, project_id: str) -> Project:
        """Raises ClientError ``not_found`` when there is no such project."""
        return self._database.run(lambda session: _read(session, project_id), readonly=True)

    def list(self, limit: int | None = None, after: str | None = None) -> list[Project]:
        """Returns at most ``limit`` projects by name: those after the one with the id ``after``.

        Raises ClientError ``invalid_request`` when there is no project ``after``.
        """

        def work(session: Session) -> list[Project]:
            sql, params = _SELECT, list[Value]()
            if after is not None:
                row = session.one("SELECT name FROM projects WHERE id = ?", (after,))
                if row is None:
                    raise ClientError("There is no project with the id in `after`.", param="after")
                sql += "WHERE p.name > ? "
                params.append(row[0])
            sql += "ORDER BY p.name"
            if limit is not None:
                sql += " LIMIT ?"
                params.append(limit)
            return [project_from(row) for row in session.all(sql, params)]

        return self._database.run(work, readonly=True)

    def update(
        self,
        project_id: str,
        changes: Mapping[str, Any],
        *,
        revoke_tokens: bool = False,
        audit: PendingEntry | None = None,
    ) -> Project:
        """Changes the fields in ``changes``: ``name``, ``description``, ``metadata``,
        ``is_active``, ``upstream_key`` (in clear) together with ``upstream_key_mask``, and
        ``policy``: a mapping of the policy fields to change, where None removes a field. An empty
        upstream key, with an empty mask, removes the key.

        ``revoke_tokens`` revokes all tokens of the project in the same transaction. Raises
        ClientError ``not_found``, ``invalid_request`` when the project would have neither a key
        nor providers, or its policy fields contradict each other, and ``conflict`` when the name is
        taken.

        With an ``upstream_key`` the responses that are stored for the project become unreadable.
        """
        if unknown := changes.keys() - _EDITABLE:
            raise ValueError(f"not a field of a project: {sorted(unknown)}")
        if ("upstream_key" in changes) != ("upstream_key_mask" in changes):
            raise ValueError("an upstream key and its mask change together")
        values: dict[str, Value] = {
            name: value for name, value in changes.items() if name not in ("is_active", "policy")
        }
        if "metadata" in changes:
            values["metadata"] = to_json(changes["metadata"])
        if "upstream_key" in changes:
            values["upstream_key"] = self._seal(changes["upstream_key"], project_id)
        active: bool | None = changes.get("is_active")

        def work(session: Session) -> Project:
            before = _read(session, project_id, session.dialect.for_update)
            now = session.now()
            columns = dict(values)
            if "upstream_key" in changes:
                columns["cache_epoch"] = before.cache_epoch + 1
            if "policy" in changes:
                # Merged under the row's lock, so that two changes of different fields both persist.
                columns["policy"] = changed_policy(before.policy, changes["policy"])
                check_together(merged_policy(before.policy, changes["policy"]))
            if "policy" in changes or "upstream_key" in changes:
                _require_upstream(
                    changes.get("upstream_key", before.api_key),
                    merged_policy(before.policy, changes.get("policy", {})),
                    "api_key" if "upstream_key" in changes else "providers",
                )
            if active is not None and active != before.is_active:
                columns["is_active"] = int(active)
                columns["deactivated_at"] = None if active else now
            columns["updated_at"] = now
            session.execute(
                f"UPDATE projects SET {assignments(columns)} WHERE id = ?",  # noqa: S608 - fixed names
                (*columns.values(), project_id),
            )
            more = {}
            if revoke_tokens:
                more["revoked_tokens"] = revoke_tokens_of(session, project_id, now)
            after = _read(session, project_id)
            replaced = ("api_key",) if "upstream_key" in changes else ()
            return record(session, audit, before, after, replaced=replaced, **more)

        return self._run(work, changes.get("name"))

    def deactivate(self, project_id: str, audit: PendingEntry | None = None) -> Project:
        """Deactivates a project and revokes all its tokens, or neither. Idempotent.

        Raises ClientError ``not_found``.
        """
        return self.update(project_id, {"is_active": False}, revoke_tokens=True, audit=audit)

    def purge_responses(self, project_id: str, audit: PendingEntry | None = None) -> Project:
        """Makes all responses that are stored for a project unreadable, by a new cache epoch.

        Workers learn of it as of every change of the project, which the caller announces.
        ``audit`` is written with the details that it has. Raises ClientError ``not_found``.
        """

        def work(session: Session) -> Project:
            epoch = _read(session, project_id, session.dialect.for_update).cache_epoch + 1
            session.execute(
                "UPDATE projects SET cache_epoch = ?, updated_at = ? WHERE id = ?",
                (epoch, session.now(), project_id),
            )
            after = _read(session, project_id)
            note(session, audit, project_id, {})
            return after

        return self._database.run(work)

    def _seal(self, upstream_key: str, project_id: str) -> str:
        return self._cipher.encrypt(
            upstream_key, table="projects", column="upstream_key", row_id=project_id
        )

    def _run(self, work: Any, name: str | None) -> Project:
        try:
            project: Project = self._database.run(work)
        except Conflict as error:
            raise ClientError(
                f"There is a project with the name {name!r} already.", code="conflict", param="name"
            ) from error
        return project


def names_of_caching_projects(database: Database) -> list[str]:
    """Returns the names of the active projects with a ``cache``, in order. Raises StoreError."""
    # The pattern finds all that may have the field, whatever wrote the document.
    query = "SELECT name, policy FROM projects WHERE is_active = 1 AND policy LIKE ? ORDER BY name"
    rows = database.run(lambda session: session.all(query, ('%"cache"%',)), readonly=True)
    documents = [(name, policy_from(policy)) for name, policy in rows]
    return [name for name, document in documents if document.get("cache") in ("opt_in", "on")]


def _require_upstream(upstream_key: str, policy: Mapping[str, Any], param: str) -> None:
    """``upstream_key``: the key or its mask; both are empty if there is none. ``param``: the field
    to name in a refusal."""
    if not upstream_key and not policy.get("providers"):
        raise ClientError(
            "A project needs an upstream key (`api_key`), or `providers` that it may use.",
            param=param,
        )


def _read(session: Session, project_id: str, suffix: str = "") -> Project:
    row = session.one(f"{_SELECT}WHERE p.id = ?{suffix}", (project_id,))
    if row is None:
        raise ClientError("There is no project with this id.", code="not_found")
    return project_from(row)
