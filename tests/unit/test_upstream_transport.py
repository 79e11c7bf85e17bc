"""The transport to the upstream, made of settings."""

from pathlib import Path

from proxy.app import session_transport, upstream_adapter
from tests.support.installation import settings


def test_all_schemes_go_through_our_adapter(tmp_path: Path) -> None:
    made = settings(tmp_path)
    adapter = upstream_adapter(made.upstream)
    transport = session_transport(made.upstream, adapter)
    for url in ("http://a/v1/x", "https://b/v1/x", "public+http://a/v1/x", "public+https://b/v1/x"):
        assert transport._session.get_adapter(url) is adapter
    transport.close()
