"""The management API as a list of rooms, on one screen: all of it stands behind one guard."""

from typing import Final

from proxy.composition.registry import Registry
from proxy.settings import Settings
from proxy.store.audit import AuditLog
from proxy.store.usage import UsageLedger
from proxy.web import Room, absent, audit, projects, tokens, usage
from proxy.web.guards import Logins, ManagementGuard
from proxy.web.trail import Trail

_NOTHING_TO_MANAGE: Final = (
    "This node relays its clients' own keys (AUTH_MODE=passthrough): it keeps no projects, access"
    " tokens or usage, and uses no database."
)


def management(settings: Settings, registry: Registry, trail: Trail, logins: Logins) -> list[Room]:
    """Everything below ``/manage``, behind one guard. ``logins`` is told of each that is refused,
    ``trail`` of each call that changes something."""
    guard = ManagementGuard(
        settings.management_token, logins, settings.trusted_proxies, trail.refused_login
    )
    if settings.auth_mode == "passthrough":
        return [Room(absent.create_blueprint("absent", _NOTHING_TO_MANAGE), "/manage", guard)]
    stores = registry.projects, registry.tokens
    ledger = UsageLedger(registry.database)
    announce = registry.announce
    return [
        Room(
            projects.create_blueprint(*stores, trail, announce=announce), "/manage/projects", guard
        ),
        Room(tokens.create_blueprint(*stores, trail, announce=announce), "/manage/tokens", guard),
        Room(audit.create_blueprint(AuditLog(registry.database)), "/manage/audit", guard),
        Room(usage.create_blueprint(ledger, settings.prices_file), "/manage/usage", guard),
    ]
