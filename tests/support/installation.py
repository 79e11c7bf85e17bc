"""Settings of an installation in a test's folder, without access to any service."""

from pathlib import Path

from proxy.settings.settings import Settings

MANAGEMENT = "management-token-1"


def settings(folder: Path, **changes: str) -> Settings:
    return Settings.load(
        {
            "MANAGEMENT_TOKEN": MANAGEMENT,
            "ENCRYPTION_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "DATA_DIR": str(folder / "data"),
            "EVENT_LOG": str(folder / "events.jsonl"),
            "UPSTREAM_BASE_URL": "http://127.0.0.1:9",  # nobody listens on the discard port
            **changes,
        }
    )
