"""How secrets are looked for in all that the suite writes; ``conftest.py`` does it at the end."""

from pathlib import Path

import pytest

from tests.conftest import pytest_runtest_logreport
from tests.support import canaries
from tests.support.server import MANAGEMENT_TOKEN, UPSTREAM_KEY, ProxyServer


def test_a_server_registers_its_secrets(tmp_path: Path) -> None:
    ProxyServer(
        tmp_path,
        "http://127.0.0.1:9",
        METRICS_TOKEN="metrics-token-registered,and-another-one-of-them",
        DATABASE_URL="mysql://user:database-password@host/name",
    )
    assert {
        MANAGEMENT_TOKEN,
        UPSTREAM_KEY,
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "metrics-token-registered",
        "and-another-one-of-them",
        "database-password",
    } <= canaries.SECRETS


@pytest.mark.parametrize(
    "name",
    [
        "proxy.log",
        "data/metrics/1-1/worker-1.samples",
        "data/spool/segment-1",
        "events.jsonl.2",
        "a/b/proxy.log.1",
    ],
)
def test_a_leak_is_found(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not a real one: this file is looked through in the end, too.
    monkeypatch.setattr(canaries, "SECRETS", {"made-up-for-this-test"})
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\x00 key=made-up-for-this-test\n")
    (tmp_path / ".env").write_text("KEY=made-up-for-this-test")
    (tmp_path / "fine.log").write_text("made-up-for-this")
    assert canaries.leaks(canaries.outputs(tmp_path)) == [(path, "made-up-for-this-test")]


def test_what_a_test_prints_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "SECRETS", {"made-up-for-this-test"})
    monkeypatch.setattr(canaries, "PRINTED", [])
    sections = [("Captured stdout call", "the key is made-up-for-this-test")]
    report = pytest.TestReport("t.py::t", ("t.py", 1, "t"), {}, "passed", None, "call", sections)
    pytest_runtest_logreport(report)
    assert canaries.PRINTED == [("t.py::t", "made-up-for-this-test")]
