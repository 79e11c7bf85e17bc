"""What a server makes is for its user alone, whatever that user's umask."""

import os
import stat
from pathlib import Path

from tests.support.proxy_access import ProxyFactory
from tests.support.raw_requests import ask
from tests.support.wait import wait_until


def test_files_are_for_their_owner_alone(own_proxy: ProxyFactory, tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        server = own_proxy(
            EVENT_LOG=str(tmp_path / "out" / "events.jsonl"),
            EVENT_LOG_MAX_BYTES="1000",
            LOG_FILE=str(tmp_path / "server.log"),
            PROFILE_DIR=str(tmp_path / "profiles"),
            RATE_LIMIT_PER_TOKEN_RPM="1000",
        ).start()
        token = server.mint(server.create_project()["id"], max_concurrent=5)["token"]
        for _ in range(5):
            assert ask(server, token).status == 200
        wait_until(lambda: (tmp_path / "out" / "events.jsonl.1").exists())
        assert server.stop() == 0
    finally:
        os.umask(old)
    data = server.folder / "data"
    paths = [path for folder in (data, tmp_path / "out") for path in folder.rglob("*")]
    paths += [data, tmp_path / "server.log"]
    # The database is a copy of a test's own making; its mode is tested with its store.
    paths = [path for path in paths if not path.name.startswith("proxy.db")]
    seen = {path.name for path in paths}
    assert seen >= {"events.jsonl.1", "server.log", "spool", "metrics", "limits"}
    wrong = {
        str(path): oct(stat.S_IMODE(path.stat().st_mode))
        for path in paths
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    }
    assert not wrong
