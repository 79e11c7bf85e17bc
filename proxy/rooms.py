"""The management API as a list of rooms, on one screen. Beside :mod:`proxy.app`, for it alone."""

from proxy.settings import Settings
from proxy.store.database import Database
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens
from proxy.store.usage import UsageLedger
from proxy.web import Room, projects, tokens, usage
from proxy.web.guards import ManagementGuard


def management(
    settings: Settings, database: Database, project_store: Projects, token_store: Tokens
) -> list[Room]:
    """Everything below ``/manage``, behind one guard."""
    guard = ManagementGuard(settings.management_token)
    return [
        Room(projects.create_blueprint(project_store, token_store), "/manage/projects", guard),
        Room(tokens.create_blueprint(project_store, token_store), "/manage/tokens", guard),
        Room(
            usage.create_blueprint(UsageLedger(database), settings.prices_file),
            "/manage/usage",
            guard,
        ),
    ]
