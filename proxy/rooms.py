"""The management API as a list of rooms, on one screen. Beside :mod:`proxy.app`, for it alone."""

from typing import Final

from proxy.settings import Settings
from proxy.store.audit import AuditLog
from proxy.store.database import Database
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens
from proxy.store.usage import UsageLedger
from proxy.web import Room, absent, audit, projects, tokens, usage
from proxy.web.guards import ManagementGuard
from proxy.web.trail import Trail

_NOTHING_TO_MANAGE: Final = (
    "This node relays its clients' own keys (AUTH_MODE=passthrough): it keeps no projects, access"
    " tokens or usage, and uses no database."
)


def management(
    settings: Settings,
    database: Database,
    project_store: Projects,
    token_store: Tokens,
    trail: Trail,
) -> list[Room]:
    """Everything below ``/manage``, behind one guard."""
    guard = ManagementGuard(settings.management_token, trail.refused_login)
    if settings.auth_mode == "passthrough":
        return [Room(absent.create_blueprint("absent", _NOTHING_TO_MANAGE), "/manage", guard)]
    return [
        Room(
            projects.create_blueprint(project_store, token_store, trail), "/manage/projects", guard
        ),
        Room(tokens.create_blueprint(project_store, token_store, trail), "/manage/tokens", guard),
        Room(audit.create_blueprint(AuditLog(database)), "/manage/audit", guard),
        Room(
            usage.create_blueprint(UsageLedger(database), settings.prices_file),
            "/manage/usage",
            guard,
        ),
    ]
