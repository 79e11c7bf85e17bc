"""What gunicorn loads: settings once in the master, kept when a reload brings bad ones."""

from pathlib import Path

import pytest

from proxy.app import Application
from proxy.core.errors import SettingsError
from proxy.server import wsgi

SECRET = "a-management-token-of-tests"
GOOD = {
    "MANAGEMENT_TOKEN": SECRET,
    "ENCRYPTION_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wsgi, "_running", None)
    monkeypatch.chdir(tmp_path)  # DATA_DIR is made


def test_the_first_start_refuses_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        wsgi.configure({"PORT": "x"}, tmp_path / ".env")
    assert len(caught.value.problems) >= 3
    assert not wsgi.is_running()
    with pytest.raises(RuntimeError, match="gunicorn -c"):
        wsgi.application()


def test_a_reload_with_bad_settings_keeps_the_running_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = wsgi.configure({**GOOD, "PORT": "9001"}, tmp_path / ".env")
    assert wsgi.is_running()
    kept = wsgi.configure({**GOOD, "PORT": "x", "TRUSTED_PROXIES": "-1"}, tmp_path / ".env")
    assert kept is running
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "PORT" in caplog.text
    assert SECRET not in caplog.text
    assert wsgi.configure({**GOOD, "PORT": "9002"}, tmp_path / ".env").server.port == 9002


def test_a_data_folder_that_cannot_be_used_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unusable = {**GOOD, "DATA_DIR": "/dev/null/data"}
    with pytest.raises(SettingsError, match="DATA_DIR: /dev/null/data cannot be made"):
        wsgi.configure(unusable, tmp_path / ".env")
    running = wsgi.configure(GOOD, tmp_path / ".env")
    assert wsgi.configure(unusable, tmp_path / ".env") is running
    assert "settings not reloaded: DATA_DIR" in caplog.text


def test_a_reload_reads_the_price_list_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "prices.json"
    environ = {**GOOD, "PRICES_FILE": str(file)}
    found = []
    for currency in ("EUR", "USD", "nonsense"):
        file.write_text(f'{{"currency": "{currency}", "models": {{}}}}')
        prices = wsgi.configure(environ, tmp_path / ".env").prices_file
        found.append(prices and prices.currency)
    assert found == ["EUR", "USD", "USD"]
    assert "PRICES_FILE: currency: expected" in caplog.text


def test_workers_take_the_master_s_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"DATA_DIR={tmp_path}/data\nCLIENT_TIMEOUT=7\n")
    wsgi.configure(GOOD, dotenv)
    dotenv.write_text("PORT=nonsense\n")
    application = wsgi.application()
    assert isinstance(application, Application)
    assert application.client_timeout == 7
    assert list((tmp_path / "data").iterdir()) == []
