"""What ``/stats`` says about the settings; the rest is seen through ``app`` and end to end."""

from pathlib import Path

from proxy.wiring.telemetry import stats_facts
from tests.support.installation import settings


def test_facts_hold_no_secret(tmp_path: Path) -> None:
    made = settings(tmp_path, UPSTREAM_PROXY_URL="http://user:pa@ss@proxy.test:3128")
    told = stats_facts(made)
    assert told["proxy_url"] == "http://proxy.test:3128"
    assert told["openai_url"] == "http://127.0.0.1:9"
    assert (told["token_cache"], told["cache"]) == ({"ttl": 30.0}, {"ttl": 0.0})
    assert (told["rate_limit"]["per_ip_rpm"], told["rate_limit"]["shared"]) == (0, False)
    assert "ss" not in str(told["proxy_url"])
    assert stats_facts(settings(tmp_path))["proxy_url"] is None
