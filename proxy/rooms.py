"""The management API as a list of rooms, on one screen. Beside :mod:`proxy.app`, for it alone."""

from collections.abc import Callable
from typing import Final

from proxy.settings import Settings
from proxy.store.database import Database
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens
from proxy.store.usage import UsageLedger
from proxy.web import Room, absent, projects, tokens, usage
from proxy.web.guards import Logins, ManagementGuard

_NOTHING_TO_MANAGE: Final = (
    "This node relays its clients' own keys (AUTH_MODE=passthrough): it keeps no projects, access"
    " tokens or usage, and uses no database."
)


def management(
    settings: Settings,
    database: Database,
    project_store: Projects,
    token_store: Tokens,
    announce: Callable[[str], None],
    logins: Logins,
) -> list[Room]:
    """Everything below ``/manage``, behind one guard. ``announce`` is told the id of a project or
    token that was changed, ``logins`` of each that is refused."""
    guard = ManagementGuard(settings.management_token, logins, settings.trusted_proxies)
    if settings.auth_mode == "passthrough":
        return [Room(absent.create_blueprint("absent", _NOTHING_TO_MANAGE), "/manage", guard)]
    return [
        Room(
            projects.create_blueprint(project_store, token_store, announce=announce),
            "/manage/projects",
            guard,
        ),
        Room(
            tokens.create_blueprint(project_store, token_store, announce=announce),
            "/manage/tokens",
            guard,
        ),
        Room(
            usage.create_blueprint(UsageLedger(database), settings.prices_file),
            "/manage/usage",
            guard,
        ),
    ]
