"""From requests through events and the ledger to `manage.py usage`, with a price list."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import requests

from proxy.events.sinks.ledger import LedgerSink
from proxy.store.database import Database
from proxy.store.usage import UsageLedger
from tests.support.fake_upstream import CHAT
from tests.support.proxy_access import ProxyFactory
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

MODEL = str(CHAT["model"])
PROMPT, COMPLETION = CHAT["usage"]["prompt_tokens"], CHAT["usage"]["completion_tokens"]


def ask(server: ProxyServer, token: str, model: str = "gpt-4.1-mini", **more: Any) -> int:
    body = {"model": model, "messages": [], **more}
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{server.url}/v1/chat/completions"
    return requests.post(url, json=body, headers=headers, timeout=30).status_code


def fill(server: ProxyServer, events: int) -> None:
    """What the server has logged, twice over, as a shipper does that was killed in between."""
    server.events(events)
    lines = server.event_log.read_bytes().splitlines(keepends=True)
    end = (1, sum(map(len, lines)))
    database = Database.from_url(f"sqlite:///{server.folder / 'data' / 'proxy.db'}")
    for _ in range(2):
        assert LedgerSink(UsageLedger(database)).write_from("worker", (0, 0), end, lines) == end
    database.close()


def write_prices(file: Path, output: int) -> None:
    prices = {MODEL: {"input": 1, "cached_input": 1, "output": output}}
    file.write_text(json.dumps({"currency": "EUR", "models": prices}))


def test_what_was_used_and_what_it_cost(own_proxy: ProxyFactory, tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"currency": "euros", "models": {}}')
    refused = own_proxy(PRICES_FILE=str(file))
    refused.spawn()
    assert refused.wait() == 2
    assert "PRICES_FILE: currency: expected" in refused.log_text()

    write_prices(file, 10)
    server, access = own_proxy.started(PRICES_FILE=str(file))
    other = server.mint(access.project_id, name="ci")
    assert ask(server, access.token) == 200
    assert ask(server, other["token"], stream=True, stream_options={"include_usage": True}) == 200
    assert ask(server, access.token, "no-such-model") == 404
    assert ask(server, "sk-" + "a" * 22) == 401
    fill(server, events=4)

    found = json.loads(server.command("usage", "--json").stdout)
    (row,) = found["rows"]
    assert row == {
        "project_id": access.project_id,
        "project_name": "project",
        "requests": 3,
        "errors": 1,
        "prompt_tokens": 2 * PROMPT,
        "completion_tokens": 2 * COMPLETION,
        "cached_tokens": row["cached_tokens"],
        "reasoning_tokens": row["reasoning_tokens"],
        "estimated_prompt_tokens": 0,
        "estimated_completion_tokens": 0,
        "cache_hits": 0,
        "saved_prompt_tokens": 0,
        "saved_completion_tokens": 0,
        "cost": row["cost"],
        "unpriced_tokens": 0,
        "saved_cost": "0",
    }
    assert round(float(row["cost"]) * 1e6) == 2 * (PROMPT + 10 * COMPLETION)
    table = server.command("usage", "--group-by", "token,model")
    assert table.returncode == 0, table.stderr
    assert [line.split()[0] for line in table.stdout.splitlines()[-2:]] == ["ci", "TOTAL"]
    assert "no-such-model" not in table.stdout
    assert len(server.command("usage", "--group-by", "model", "--csv").stdout.splitlines()) == 3
    wrong = server.command("usage", "--from", "yesterday")
    assert (wrong.returncode, "`from` must be" in wrong.stderr) == (1, True)

    write_prices(file, 0)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    cheaper = f"{2 * PROMPT / 1e6:f}"

    def cost() -> str:
        return str(server.manage("GET", "/usage").json()["totals"]["cost"])

    wait_until(lambda: float(cost()) == float(cheaper))


def test_a_stored_response_counts_once_whoever_reads_it(own_proxy: ProxyFactory) -> None:
    """Over two workers, in the ledger, in ``tokens_used`` and in ``max_tokens_total``."""
    server, access = own_proxy.started(EVENT_SHIPPER="on")
    responses = f"{server.url}/v1/responses"
    reading = server.mint(access.project_id, max_tokens_total=300)

    def call(method: str, url: str, token: str, **body: Any) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        with requests.Session() as fresh:  # another worker, perhaps
            return fresh.request(method, url, headers=headers, json=body, timeout=30).status_code

    def used() -> tuple[int, int, int, int]:
        totals = server.manage("GET", "/usage").json()["totals"]
        tokens = [server.manage("GET", f"/tokens/{token_id}").json() for token_id in token_ids]
        ledger = totals["prompt_tokens"] + totals["completion_tokens"]
        return (totals["requests"], ledger, *[token["tokens_used"] for token in tokens])

    token_ids = [access.token_id, reading["id"]]
    assert call("POST", responses, access.token, model="m", background=True) == 200
    for _ in range(4):
        assert call("GET", f"{responses}/resp_1", access.token) == 200
    assert call("GET", f"{responses}/resp_1?stream=true&starting_after=3", access.token) == 200
    wait_until(lambda: used() == (6, 123, 123, 0), 30)
    for _ in range(4):
        assert call("GET", f"{responses}/resp_1", reading["token"]) == 200
    # Generated again under the same id, which makes nothing free.
    for _ in range(2):
        assert call("POST", responses, access.token, model="m") == 200
    wait_until(lambda: used() == (12, 369, 369, 0), 30)
    assert call("GET", f"{responses}/resp_1", reading["token"]) == 200

    chat = f"{server.url}/v1/chat/completions"
    assert call("POST", chat, access.token, model="m", messages=[]) == 200
    for _ in range(3):
        assert call("GET", f"{chat}/chatcmpl-1", access.token) == 200
    wait_until(lambda: used() == (17, 390, 390, 0), 30)


def test_limits_and_figures_know_a_stored_response_once(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(EVENT_SHIPPER="on")
    token = server.mint(access.project_id, rate_limit_tpm=200)["token"]
    headers = {"Authorization": f"Bearer {token}"}
    responses = f"{server.url}/v1/responses"

    def poll() -> int:
        answer = requests.get(f"{responses}/resp_1", headers=headers, timeout=30)
        assert answer.status_code == 200, "four reads of 123 tokens would be more than 200"
        return int(answer.headers["x-proxy-ratelimit-remaining-tokens"])

    background = {"model": "m", "background": True}
    made = requests.post(responses, json=background, headers=headers, timeout=30)
    assert made.status_code == 200
    assert poll() > 123
    wait_until(lambda: poll() < 123, 30)
    for _ in range(4):
        assert poll() >= 77

    def prompt_tokens() -> float:
        page = requests.get(f"{server.url}/metrics", timeout=10).text
        found = re.findall(r'^proxy_tokens_total{kind="prompt",.*} (\S+)$', page, re.MULTILINE)
        return sum(map(float, found))

    wait_until(lambda: prompt_tokens() == 36, 30)
    requests.post(responses, json={"model": "m"}, headers=headers, timeout=30)
    wait_until(lambda: prompt_tokens() == 72, 30)
