"""Everything below ``/manage`` stands behind one guard."""

import base64
from pathlib import Path

from proxy import rooms
from proxy.auth.recorder import Recorder
from proxy.auth.refusals import Refusals
from proxy.cipher import Cipher
from proxy.settings import Settings
from proxy.store.audit import AuditLog
from proxy.store.database import Database
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens
from proxy.web import Room
from proxy.web.guards import ManagementGuard
from proxy.web.trail import Trail

KEY = bytes(range(32))


def rooms_of(folder: Path, **changes: str) -> list[Room]:
    settings = Settings.load(
        {
            "MANAGEMENT_TOKEN": "management-token-1",
            "ENCRYPTION_KEY": base64.b64encode(KEY).decode(),
            "DATA_DIR": str(folder),
            **changes,
        }
    )
    database = Database.from_url(settings.database_url, pool_size=1)
    trail = Trail(Recorder(AuditLog(database), Refusals(), lambda entry: None), 0)
    made = rooms.management(
        settings, database, Projects(database, Cipher(KEY, ())), Tokens(database), trail
    )
    database.close()
    return made


def test_every_room_of_the_management_api_is_guarded(tmp_path: Path) -> None:
    made = rooms_of(tmp_path)
    prefixes = {room.prefix for room in made}
    assert {f"/manage/{name}" for name in ("projects", "tokens", "usage", "audit")} <= prefixes
    assert all((room.prefix or "").startswith("/manage/") for room in made)
    assert all(isinstance(room.guard, ManagementGuard) for room in made)


def test_where_nothing_is_kept_one_guarded_room_says_so(tmp_path: Path) -> None:
    (room,) = rooms_of(tmp_path, AUTH_MODE="passthrough")
    assert (room.prefix, room.blueprint.name) == ("/manage", "absent")
    assert isinstance(room.guard, ManagementGuard)
