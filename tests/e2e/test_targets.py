"""Many providers behind one endpoint, on the real server with two workers: each way to fail, each
dialect, and what crosses workers."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import requests
from wsproto.events import AcceptConnection

from tests.support.fake_upstream import Conversation, Upstream
from tests.support.mock_anthropic import MockAnthropic
from tests.support.mock_provider import (
    Failure,
    MockProvider,
    cut,
    error_event,
    reply,
    silence,
    status,
)
from tests.support.ports import free_port
from tests.support.realtime import Client, Realtime, opening
from tests.support.routed_house import RoutedHouse
from tests.support.server import UPSTREAM_KEY, ProxyServer
from tests.support.wait import wait_until

#: Name, failure of the first provider's keys, whether streamed, config of the mapping, reasons.
ROWS: list[tuple[str, Failure | None, bool, dict[str, Any], list[str]]] = [
    ("refused", None, False, {}, ["connect", "connect"]),
    ("401", status(401), False, {}, ["auth", "auth"]),
    ("402", status(402), True, {}, ["payment", "payment"]),
    ("403", status(403), False, {}, ["forbidden", "forbidden"]),
    ("429", status(429), True, {}, ["rate", "rate"]),
    ("429-short", status(429, retry_after=0.1), False, {}, ["rate", "rate", "rate", "rate"]),
    ("429-long", status(429, retry_after=50), False, {}, ["rate", "rate"]),
    ("500", status(500), True, {}, ["server", "server"]),
    ("529", status(529), False, {}, ["server", "server"]),
    ("event", error_event(503), True, {}, ["stream_error", "stream_error"]),
    ("silence", silence(), True, {"fallback_on": ["timeout"]}, ["timeout"]),
    ("hush", silence(after=0), True, {"fallback_on": ["timeout"]}, ["timeout"]),
    ("cut", cut(), True, {"fallback_on": ["reset"]}, ["stream_cut"]),
]


def keys_of(row: str) -> list[str]:
    return [f"sk-upstream-{row}-{number}" for number in (1, 2)]


class House(RoutedHouse):
    """Each test has its own providers, since cooldowns and breakers outlive it."""

    def __init__(self, proxy: ProxyServer, mocks: dict[str, MockProvider]) -> None:
        super().__init__(proxy)
        self.mocks = mocks
        #: Aliases of the tests of chains, the last of which is the running test's.
        self.chains: list[str] = []
        first, second = mocks["first"], mocks["second"]
        self.provider("second", second, ["sk-upstream-second"], is_default=True)
        for row, failure, _, routing, _ in ROWS:
            config: dict[str, Any] = {"ttft_timeout": 1}
            if failure is None:
                config["base_url"] = f"http://127.0.0.1:{free_port()}"
            self.provider(row, first, keys_of(row), **config)
            for key in keys_of(row):
                first.for_key(key, failure)
            self.alias(f"alias-{row}", f"{row}/m", "second/m", routing=routing)
        self.provider("azure-v1", mocks["azure"], ["sk-upstream-azure-v1"])
        self.provider("azure", mocks["azure"], ["sk-upstream-azure"], api_version="2024-10-21")
        self.provider("gemini", mocks["gemini"], ["sk-upstream-gemini"])
        self.provider("ollama", mocks["ollama"], [])
        self.provider("gone", first, ["sk-upstream-gone"])
        self.provider("cooled", first, ["sk-upstream-cooled"])
        self.provider("billed", first, ["sk-upstream-billed"], max_retries=0)
        self.alias("billed", "billed/m", "second/m")
        for dialect in ("azure-v1", "azure", "gemini", "ollama"):
            self.alias(f"smart-{dialect}", f"{dialect}/their-model")
        self.alias("ready", "second/m")
        self.ready("ready")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream) -> Iterator[House]:
    proxy = ProxyServer(
        tmp_path_factory.mktemp("providers"),
        session_upstream.url,
        REVOCATION_INTERVAL="1",
        ALLOW_PRIVATE_UPSTREAMS="on",
    ).start()
    mocks = {name: MockProvider(name) for name in ("azure", "gemini", "ollama")}
    mocks.update({name: MockProvider() for name in ("first", "second")})
    try:
        made = House(proxy, mocks)
        yield made
        made.client.close()
        assert proxy.stop() == 0, proxy.log_text()
        log = proxy.log_text()
        assert "Traceback" not in log, log
        assert "sk-upstream-" not in log
    finally:
        proxy.stop()
        for mock in mocks.values():
            mock.stop()


def said(response: requests.Response) -> str:
    """The text of a chat, streamed or not."""
    if not response.headers["Content-Type"].startswith("text/event-stream"):
        return str(response.json()["choices"][0]["message"]["content"])
    assert response.text.rstrip().endswith("data: [DONE]")
    chunks = [
        json.loads(line.removeprefix("data: "))
        for line in response.text.splitlines()
        if line.startswith("data: {")
    ]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice.get("delta", {}).get("content") or "" for choice in choices)


def assert_no_secrets(response: requests.Response) -> None:
    whole = response.text + repr(response.headers)
    assert "sk-upstream" not in whole
    assert "sk-u" not in whole
    assert "key-0" not in whole


@pytest.mark.parametrize(("row", "failure", "streams", "routing", "reasons"), ROWS)
def test_each_way_to_fail(
    house: House,
    row: str,
    failure: Failure | None,
    streams: bool,
    routing: dict[str, Any],
    reasons: list[str],
) -> None:
    response = house.post(f"alias-{row}", stream=streams)
    assert response.status_code == 200, response.text
    assert said(response) == "One two three."
    assert response.headers["X-Proxy-Provider"] == "second"
    assert response.headers["X-Proxy-Attempts"] == str(len(reasons) + 1)
    assert_no_secrets(response)
    *superseded, event = house.events(response.headers["X-Proxy-Request-ID"])
    assert [each["reason"] for each in event["attempts"]] == [*reasons, None]
    assert (event["provider"], event["outcome"]) == ("second", "completed")
    billed = [reason for reason in reasons if reason.startswith(("stream_", "timeout"))]
    assert [each["attempts"][0]["reason"] for each in superseded] == billed


@pytest.mark.parametrize("dialect", ["azure-v1", "azure", "gemini", "ollama"])
def test_each_dialect(house: House, dialect: str) -> None:
    upstream = house.mocks[dialect.partition("-")[0]]
    upstream.reset()
    for streams in (False, True):
        response = house.post(f"smart-{dialect}", stream=streams)
        assert response.status_code == 200, response.text
        assert said(response) == "One two three."
        assert response.headers["X-Proxy-Model"] == "their-model"
        assert_no_secrets(response)
        event = house.events(response.headers["X-Proxy-Request-ID"])[-1]
        if not streams:  # nobody asked a stream for its usage
            assert event["metadata"]["total_tokens"] == 12
    made = house.client.embeddings.create(model=f"smart-{dialect}", input="x")
    assert made.usage.total_tokens == 4
    expected = {"ollama": None}.get(dialect, f"sk-upstream-{dialect}")
    assert upstream.keys_used == [expected] * 3
    assert house.token not in repr(upstream.received)


def test_the_official_client_streams_and_calls_tools(house: House) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    for model in ("smart-azure", "smart-gemini", "smart-ollama", "second/any"):
        whole = house.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hi"}], tools=[tool]
        )
        (call, *_) = whole.choices[0].message.tool_calls or []
        assert call.id == "call_0"
        text = "".join(
            chunk.choices[0].delta.content or ""
            for chunk in house.client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Hi"}], stream=True
            )
            if chunk.choices and chunk.choices[0].delta
        )
        assert text == "One two three."


def test_the_header_of_azures_clients(house: House) -> None:
    response = requests.post(
        f"{house.proxy.url}/v1/chat/completions",
        json={"model": "smart-azure", "messages": []},
        headers={"api-key": house.token},
        timeout=30,
    )
    assert response.status_code == 200, response.text
    assert house.token not in repr(house.mocks["azure"].received)


def test_a_removed_key_stops_in_both_workers(house: House) -> None:
    first = house.mocks["first"]
    assert house.post("gone/m").status_code == 200
    keys = {each["provider_id"]: each for each in house.proxy.manage("GET", "/keys").json()}
    providers = {
        each["name"]: each["id"] for each in house.proxy.manage("GET", "/providers").json()
    }
    removed = house.proxy.manage("DELETE", f"/keys/{keys[providers['gone']]['id']}")
    assert removed.status_code in (200, 204), removed.text

    def stopped() -> bool:
        before = first.keys_used.count("sk-upstream-gone")
        responses = [house.post("gone/m") for _ in range(12)]
        return first.keys_used.count("sk-upstream-gone") == before and {
            each.json()["error"]["code"] for each in responses
        } == {"upstream_auth_failed"}

    wait_until(stopped)


def test_a_cooldown_reaches_the_other_worker(house: House) -> None:
    first = house.mocks["first"]
    first.for_key("sk-upstream-cooled", status(429, retry_after=60))
    response = house.post("cooled/m")
    assert response.status_code == 429
    assert 50 <= int(response.headers["Retry-After"]) <= 60

    def rests() -> bool:
        before = first.keys_used.count("sk-upstream-cooled")
        codes = {house.post("cooled/m").status_code for _ in range(12)}
        return codes == {429} and first.keys_used.count("sk-upstream-cooled") == before

    wait_until(rests)
    first.for_key("sk-upstream-cooled", None)
    assert house.post("cooled/other").status_code == 200, "it rests for that model alone"


def test_a_superseded_attempt_counts_in_the_limit_of_tokens(house: House) -> None:
    def billed(provider: MockProvider, talk: Conversation) -> None:
        """It counts the prompt at the beginning of the stream, and fails then."""
        usage = {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}
        kind = ("Content-Type", "text/event-stream")
        talk.head("200 OK", [kind, ("Transfer-Encoding", "chunked")])
        talk.chunk(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        talk.chunk(b"data: " + json.dumps(provider.error(500)).encode() + b"\n\n")
        talk.end_chunks()

    house.mocks["first"].for_key("sk-upstream-billed", billed)
    token_id, token = house.mint(max_tokens_total=1000)
    wait_until(lambda: house.post("second/m", token=token).status_code == 200)
    used = lambda: house.proxy.manage("GET", f"/tokens/{token_id}").json()["tokens_used"]  # noqa: E731
    wait_until(lambda: used() >= 12)
    before = used()
    response = house.post("billed", token=token, stream=True)
    assert said(response) == "One two three."
    superseded, event = house.events(response.headers["X-Proxy-Request-ID"])
    assert superseded["metadata"]["total_tokens"] == 9
    assert event["metadata"]["total_tokens"] == 12
    wait_until(lambda: used() == before + 9 + 12)


def test_what_has_state_stays_with_the_default_provider(house: House) -> None:
    second = house.mocks["second"]
    second.reset()
    second.next(*[lambda _, talk: reply(talk, {"id": "x", "object": "any"})] * 3)
    headers = {"Authorization": f"Bearer {house.token}"}
    for method, path in (
        ("GET", "/v1/responses/resp_1"),
        ("GET", "/v1/files"),
        ("DELETE", "/v1/files/file-1"),
    ):
        response = requests.request(method, f"{house.proxy.url}{path}", headers=headers, timeout=30)
        assert response.status_code == 200, response.text
    assert [each.target for each in second.received] == [
        "/v1/responses/resp_1",
        "/v1/files",
        "/v1/files/file-1",
    ]
    assert set(second.keys_used) == {"sk-upstream-second"}


def test_a_model_in_a_form_is_resolved(house: House) -> None:
    second = house.mocks["second"]
    second.reset()
    second.next(lambda _, talk: reply(talk, {"text": "hello"}))
    made = house.client.audio.transcriptions.create(model="ready", file=("a.wav", b"\0" * 100))
    assert made.text == "hello"
    (received,) = second.received
    assert b"ready" not in received.body
    assert b"\r\n\r\nm\r\n" in received.body


@pytest.mark.usefixtures("house")
def test_an_own_key_with_an_upstream_retries_and_a_breaker(house: House) -> None:
    with MockProvider() as own:
        project = house.make(
            "projects",
            {
                "name": "own",
                "api_key": UPSTREAM_KEY,
                "base_url": own.base_url,
                "max_retries": 2,
                "breaker": "on",
            },
        )
        token = house.proxy.mint(project["id"])["token"]
        wait_until(lambda: house.post("m", token=token).status_code == 200)
        own.reset()
        own.next(status(500), status(503))
        response = house.post("m", token=token)
        assert response.status_code == 200
        assert response.headers["X-Proxy-Attempts"] == "3"
        assert "X-Proxy-Provider" not in response.headers
        assert set(own.keys_used) == {UPSTREAM_KEY}
        own.always(status(401))
        assert house.post("m", token=token).status_code == 401
        own.always(status(500))
        codes = [house.post("m", token=token).status_code for _ in range(40)]
        assert codes[0] == 500
        assert 503 in codes
        event = house.events(response.headers["X-Proxy-Request-ID"])[-1]
        assert [each["reason"] for each in event["attempts"]] == ["server", "server", None]


def test_a_websocket_of_an_alias(house: House, realtime: Realtime) -> None:
    mock = house.mocks["first"]
    house.provider("live", mock, ["sk-upstream-live"], base_url=realtime.url)
    house.alias("live", "live/gpt-realtime-2")
    house.alias("behind-live", "second/m")
    house.ready("behind-live")
    client = Client(house.proxy.port, opening(house.token, "/v1/realtime?model=live&x=1"))
    assert isinstance(client.next(), AcceptConnection)
    client.text()
    client.sock.close()
    sent = realtime.requests[-1]
    assert sent.target == "/v1/realtime?model=gpt-realtime-2&x=1"
    lines = {name.lower(): value for name, value in sent.extra_headers}
    assert lines[b"authorization"] == b"Bearer sk-upstream-live"


# Chaos.


def slowly(provider: MockProvider, talk: Conversation) -> None:
    provider.begin(talk, 0)
    for word in ("One ", "two ", "three."):
        gevent.sleep(0.02)
        talk.chunk(provider._chunk(talk, {"content": word}))
    talk.chunk(provider._chunk(talk, {}, "stop"))
    talk.chunk(b"data: [DONE]\n\n")
    talk.end_chunks()


@pytest.mark.slow
def test_providers_that_die_and_come_back_under_streams(house: House) -> None:
    with MockProvider() as one, MockProvider() as two:
        for mock in (one, two):
            mock.always(slowly)
        house.provider("one", one, ["sk-upstream-one"])
        house.provider("two", two, ["sk-upstream-two"])
        house.alias("chaos", "one/model-of-one", "two/model-of-two")
        house.ready("chaos")
        one.received.clear()
        two.received.clear()
        results: list[tuple[str, str, requests.Response]] = []
        until = gevent.get_hub().loop.now() + 4

        def ask(number: int) -> None:
            for turn in range(1000):
                if gevent.get_hub().loop.now() > until:
                    return
                name = f"{number}-{turn}"
                response = requests.post(
                    f"{house.proxy.url}/v1/chat/completions",
                    json={"model": "chaos", "messages": [], "stream": True, "user": name},
                    headers={"Authorization": f"Bearer {house.token}"},
                    timeout=30,
                    stream=True,
                )
                try:
                    text = response.content.decode()
                except requests.exceptions.RequestException:
                    results.append((name, "broken", response))
                    continue
                if response.status_code != 200:
                    assert json.loads(text)["error"]["code"]
                    results.append((name, "refused", response))
                    continue
                assert said(response) == "One two three."
                assert sum(f"model-of-{each}" in text for each in ("one", "two")) == 1
                results.append((name, "whole", response))
                gevent.sleep(0.1)

        clients = [gevent.spawn(ask, number) for number in range(50)]
        for victim in (one, two, one, two):
            gevent.sleep(0.5)
            victim.kill()
            gevent.sleep(0.3)
            victim.revive()
        gevent.joinall(clients, timeout=60, raise_error=True)
        assert all(client.dead for client in clients)
        kinds = [kind for _, kind, _ in results]
        assert kinds.count("whole") > 50
        received = [each.body for each in one.received + two.received if each.complete]
        reached = [json.loads(body)["user"] for body in received]
        for name, kind, response in results:
            *superseded, event = house.events(response.headers["X-Proxy-Request-ID"])
            assert all(each["outcome"] == "superseded" for each in superseded)
            sent = [each for each in event.get("attempts", []) if each["reason"] != "connect"]
            assert reached.count(name) <= len(sent)
            if kind == "whole":
                assert event["outcome"] == "completed"
                assert reached.count(name) >= 1
            else:
                assert event["outcome"] in ("aborted", "rejected")
        assert len(reached) == len([name for name in reached if name in {r[0] for r in results}])


# Chains over dialects.

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
#: The identifier of the call that each provider makes.
CALLS = {"one": "call_0", "claude": "toolu_1", "two": "call_0"}


@pytest.fixture
def chain(house: House) -> Iterator[dict[str, MockProvider]]:
    """OpenAI's dialect, then Anthropic's, then OpenAI's, with records of this test's own."""
    upstreams = {"one": MockProvider(), "claude": MockAnthropic(), "two": MockProvider()}
    for name, upstream in upstreams.items():
        where = f"chain-{len(house.chains)}-{name}"
        house.provider(where, upstream, [f"sk-upstream-{where}"], max_retries=0)
    alias = f"chain-{len(house.chains)}"
    house.alias(alias, *(f"{alias}-{name}/model-of-{name}" for name in upstreams))
    house.chains.append(alias)
    house.alias(f"behind-{alias}", "second/m")
    house.ready(f"behind-{alias}")  # who knows this one knows all targets of the other
    for upstream in upstreams.values():
        upstream.reset()
    yield upstreams
    for upstream in upstreams.values():
        upstream.stop()


def ask_chain(house: House, **more: Any) -> requests.Response:
    return house.post(
        house.chains[-1],
        stream=True,
        stream_options={"include_usage": True},
        tools=[TOOL],
        seed=7,
        **more,
    )


def assert_of_one_dialect(text: str, name: str) -> list[Any]:
    """All frames are OpenAI's, and of the provider `name` alone. Returns them."""
    assert text.endswith("data: [DONE]\n\n")
    lines = [line for line in text.split("\n\n")[:-2] if not line.startswith(":")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert {chunk["model"] for chunk in chunks} == {f"model-of-{name}"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "event:" not in text
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert [delta["role"] for delta in deltas if "role" in delta] == ["assistant"]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    assert [call["id"] for call in calls if "id" in call] == [CALLS[name]]
    arguments = "".join(call["function"].get("arguments", "") for call in calls)
    assert json.loads(arguments) == {"city": "Oslo"}
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [end for end in ends if end] == ["tool_calls"]
    return chunks


@pytest.mark.parametrize(
    ("one", "claude", "served", "reasons"),
    [
        (error_event(503), None, "claude", ["stream_error"]),
        (status(500), error_event(529), "two", ["server", "stream_error"]),
        (error_event(503), error_event(503), "two", ["stream_error", "stream_error"]),
    ],
)
def test_a_chain_over_dialects_leaves_nothing_of_one_in_another(
    house: House,
    chain: dict[str, MockProvider],
    one: Failure,
    claude: Failure | None,
    served: str,
    reasons: list[str],
) -> None:
    chain["one"].always(one)
    chain["claude"].always(claude)
    response = ask_chain(house)
    assert response.status_code == 200, response.text
    assert_no_secrets(response)
    chunks = assert_of_one_dialect(response.text, served)
    counts = {"claude": (29, 12, 41), "two": (9, 3, 12)}[served]
    usage = chunks[-1]["usage"]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert tuple(usage[name] for name in names) == counts
    dropped = "seed" if served == "claude" else None
    assert response.headers.get("X-Proxy-Dropped-Params") == dropped
    *superseded, event = house.events(response.headers["X-Proxy-Request-ID"])
    assert [each["reason"] for each in event["attempts"]] == [*reasons, None]
    assert event["metadata"]["total_tokens"] == counts[2]
    assert event["outcome"] == "completed"
    begun = [reason for reason in reasons if reason == "stream_error"]
    assert [each["attempts"][0]["reason"] for each in superseded] == begun
    # What Anthropic counted before it failed is in its own event: 29 of input, and 1 of output.
    billed = {each["provider"]: each["metadata"].get("total_tokens") for each in superseded}
    if served == "two":
        assert billed[f"{house.chains[-1]}-claude"] == 30
    for name, upstream in chain.items():
        for received in upstream.received:
            body = json.loads(received.body)
            assert ("seed" in body, "max_tokens" in body) == (
                (False, True) if name == "claude" else (True, False)
            )
            assert ("input_schema" in body["tools"][0]) is (name == "claude")


@pytest.mark.slow
def test_a_chain_over_dialects_whose_members_die_and_come_back(
    house: House, chain: dict[str, MockProvider]
) -> None:
    results: list[tuple[str, requests.Response]] = []
    until = gevent.get_hub().loop.now() + 4

    def ask() -> None:
        while gevent.get_hub().loop.now() < until:
            with contextlib.suppress(requests.exceptions.RequestException):  # it broke off
                response = ask_chain(house)
                if response.status_code != 200:
                    assert response.json()["error"]["code"]
                    continue
                served = response.headers["X-Proxy-Provider"].rpartition("-")[2]
                assert_of_one_dialect(response.text, served)
                dropped = response.headers.get("X-Proxy-Dropped-Params")
                assert dropped == ("seed" if served == "claude" else None)
                results.append((served, response))
            gevent.sleep(0.1)

    clients = [gevent.spawn(ask) for _ in range(20)]
    for victims in (["one"], ["one", "claude"], ["two", "claude"], ["one"]):
        gevent.sleep(0.3)
        for name in victims:
            chain[name].kill()
        gevent.sleep(0.4)
        for name in victims:
            chain[name].revive()
    gevent.joinall(clients, timeout=60, raise_error=True)
    assert all(client.dead for client in clients)
    assert {served for served, _ in results} == {"one", "claude", "two"}
    for served, response in results[::10]:
        *superseded, event = house.events(response.headers["X-Proxy-Request-ID"])
        assert all(each["outcome"] == "superseded" for each in superseded)
        assert event["outcome"] == "completed"
        assert event["metadata"]["total_tokens"] == (41 if served == "claude" else 12)
