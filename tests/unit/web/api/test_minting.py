"""``POST /v1/proxy/tokens``: what a child may be, who may make one, and what is never relayed."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
import pytest

from proxy.audit.denials import DenialAggregator
from proxy.audit.writer import AuditWriter
from proxy.auth.authenticator import Authenticator
from proxy.core.errors import ClientError, StoreError
from proxy.crypto import tokens
from proxy.crypto.cipher import Cipher
from proxy.gateway.admission import Admission
from proxy.gateway.cors import Cors
from proxy.gateway.inflight import Cancelled, InFlightRequests, ShuttingDown, TokenRevoked
from proxy.quota.budgets import Budgets
from proxy.quota.permits import PermitLeases
from proxy.quota.usage_counter import UsageCounter
from proxy.ratelimit.request_limiter import Rates
from proxy.store import tokens as tokens_module
from proxy.store.audit import AuditLog
from proxy.store.counters import Counters
from proxy.store.database import Database
from proxy.store.grants import MAX_ANCESTORS, Grants
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.records import AccessToken
from proxy.store.tokens import Tokens
from proxy.web import AccessRecord, Mount, blueprints, create_flask_app
from proxy.web.api.minting import PATH, MintingEndpoint, handles
from proxy.web.audit_trail import AuditTrail
from tests.support.limiter_factories import Limited
from tests.support.process_holds import process_holds
from tests.support.relay_factories import ASKED, ORIGIN, Input, Result, environ, serve


class World:
    """The endpoint on a real store, with one token that may mint."""

    def __init__(
        self, url: str, origins: tuple[str, ...] = (), rates: Rates | None = None, **fields: Any
    ) -> None:
        database = Database.from_url(url)
        Migrator(database).migrate()
        cipher = Cipher(b"k" * 32)
        self.projects, self.tokens = Projects(database, cipher), Tokens(database)
        counters = Counters(database)
        self.counts = UsageCounter(counters)
        self.access = Authenticator(
            Grants(database, cipher),
            PermitLeases(counters, self.counts),
            self.counts,
            Budgets(counters, process_holds(), self.counts.unwritten),
            cache_size=100,
            cache_ttl=100,
        )
        self.now = datetime.now(UTC)
        self.limited = Limited(rates)
        self.live = InFlightRequests(2)
        self.answered: list[AccessRecord] = []
        self.audit = AuditLog(database)
        self.recorder = AuditWriter(self.audit, DenialAggregator(), lambda entry: None)
        self.endpoint = MintingEndpoint(
            Admission(self.access, self.limited.throttle),
            self.tokens,
            self.live,
            Cors(origins),
            AuditTrail(self.recorder, 0),
            trusted_proxies=0,
            observe=self.answered.append,
            now=lambda: self.now,
        )
        room = Mount(blueprints.create_minting_blueprint(self.endpoint), PATH, None)
        self.flask = create_flask_app([room], self.answered.append)
        self.project = self.projects.create("Acme", "sk-upstream-canary-0123456789", "mask")
        self.secret, self.parent = self.make(policy={"can_mint": True, **fields})

    def make(self, **more: Any) -> tuple[str, AccessToken]:
        minted = tokens.mint()
        given = {"expires_at": self.now + timedelta(hours=1), **more}
        token = self.tokens.create(
            minted.token_id,
            self.project.id,
            minted.token_hash,
            minted.token_mask,
            **given,
        )
        return minted.secret, token

    def ask(
        self,
        body: Any = None,
        secret: str | None = None,
        method: str = "POST",
        target: str = PATH,
        headers: Any = (),
        door: Any = None,
    ) -> Result:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [*headers, ("Content-Length", str(len(raw)))]
        request = environ(method, target, lines, [raw], secret or self.secret)
        if door is not None:
            request["wsgi.input"] = Input(
                [*lines, ("Authorization", f"Bearer {self.secret}")], [raw]
            )
        return serve(door or self.endpoint, request)

    def mint(self, secret: str | None = None, **body: Any) -> dict[str, Any]:
        result = self.ask({"duration_minutes": 5, **body}, secret)
        assert result.code == 201, result.body
        made: dict[str, Any] = json.loads(result.body)
        return made

    def refused(
        self, status: int, code: str, body: Any, param: str | None = None, **more: Any
    ) -> dict[str, Any]:
        before = len(self.tokens.list())
        result = self.ask(body, **more)
        error: dict[str, Any] = json.loads(result.body)["error"]
        assert (result.code, error["code"], error["param"]) == (status, code, param)
        assert len(self.tokens.list()) == before
        return error


@pytest.fixture
def world(sqlite_url: str) -> World:
    return World(sqlite_url)


FIVE = {"duration_minutes": 5}


def test_a_child_is_shown_once_and_stored_as_a_hash(world: World) -> None:
    fields = {"allowed_models": ["gpt-4.1-mini"], "max_requests": 3, "name": " browser "}
    fields |= {"cache": "off"}
    result = world.ask({**FIVE, **fields}, headers=[("X-Request-ID", "r1")])
    made = json.loads(result.body)
    assert (result.code, result.one("Content-Type")) == (201, "application/json")
    assert result.one("Cache-Control") == "no-store"
    assert result.one("X-Proxy-Request-ID") == "r1"
    assert result.one("Content-Length") == str(len(result.body))
    assert (made["parent_id"], made["project_id"]) == (world.parent.id, world.project.id)
    assert (made["name"], made["max_requests"]) == ("browser", 3)
    assert made["allowed_models"] == ["gpt-4.1-mini"]
    assert (made["can_mint"], made["tokens_used"], made["request_count"]) == (False, 0, 0)
    stored = world.tokens.get(made["id"])
    assert stored.token == tokens.mask_token(made["token"])
    assert stored.expires_at == world.now + timedelta(minutes=5)
    assert stored.policy == {"allowed_models": ["gpt-4.1-mini"], "cache": "off"}
    principal = world.access.authenticate(f"Bearer {made['token']}")
    assert principal.token_id == made["id"]
    (told,) = world.answered
    assert (told.route, told.status, told.path, told.request_id) == ("minting", 201, PATH, "r1")


def test_it_never_lives_longer_than_its_parent(world: World) -> None:
    made = world.mint(duration_minutes=525600)
    assert world.tokens.get(made["id"]).expires_at == world.parent.expires_at
    grandparent = world.mint(can_mint=True)
    made = world.mint(grandparent["token"], duration_minutes=6)
    assert made["expires_at"] == grandparent["expires_at"]


def test_nothing_is_inherited_by_copying_and_everything_holds(world: World) -> None:
    secret, _ = world.make(policy={"can_mint": True, "max_tokens_total": 10})
    made = world.mint(secret, max_tokens_total=10**9)
    principal = world.access.authenticate(f"Bearer {made['token']}")
    totals = [account.max_tokens_total for account in principal.accounts]
    assert totals == [None, 10**9, 10]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "duration_minutes"),
        ({"duration_minutes": 0}, "duration_minutes"),
        ({"duration_minutes": 525601}, "duration_minutes"),
        ({"duration_minutes": "5"}, "duration_minutes"),
        ({"duration_minutes": True}, "duration_minutes"),
        ({**FIVE, "expires_at": "2030-01-01T00:00:00Z"}, "expires_at"),
        ({**FIVE, "project_id": "x"}, "project_id"),
        ({**FIVE, "parent_id": None}, "parent_id"),
        ({**FIVE, "on_revoke": "finish"}, "on_revoke"),
        ({**FIVE, "max_request": 3}, "max_request"),
        ({**FIVE, "max_requests": -1}, "max_requests"),
        ({**FIVE, "max_tokens_total": 0}, "max_tokens_total"),
        ({**FIVE, "name": ""}, "name"),
        ({**FIVE, "can_mint": "yes"}, "can_mint"),
        ({**FIVE, "allowed_ips": ["everywhere"]}, "allowed_ips"),
        ([], None),
        (b"", None),
        (b"{", None),
    ],
)
def test_what_is_refused_by_its_name(world: World, body: Any, param: str | None) -> None:
    world.refused(400, "invalid_request", body, param)
    world.counts.flush()
    assert world.tokens.get(world.parent.id).request_count == 0, "and costs the parent nothing"


def test_a_body_that_is_too_large(world: World) -> None:
    world.refused(413, "request_too_large", b" " * (16 * 1024 + 1))


def test_no_limit_may_be_said(world: World) -> None:
    made = world.mint(max_requests=0, max_tokens_total=None, name=None, allowed_models=None)
    assert world.tokens.get(made["id"]).policy == {}
    assert made["max_requests"] is None


@pytest.mark.parametrize("policy", [{}, {"can_mint": False}])
def test_only_who_may(world: World, policy: dict[str, Any]) -> None:
    secret, _ = world.make(policy=policy)
    error = world.refused(404, "endpoint_not_found", FIVE, secret=secret)
    assert "can_mint" in error["message"]


def test_a_child_may_mint_only_if_that_was_said(world: World) -> None:
    world.refused(404, "endpoint_not_found", FIVE, secret=world.mint()["token"])
    made = world.mint(world.mint(can_mint=True)["token"])
    ancestors = world.access.authenticate(f"Bearer {made['token']}").accounts[2:]
    assert [account.id for account in ancestors][-1] == world.parent.id


def test_no_deeper_than_can_be_read(world: World) -> None:
    secret = world.secret
    for _ in range(MAX_ANCESTORS - 1):
        secret = world.mint(secret, can_mint=True)["token"]
    world.refused(400, "invalid_request", {**FIVE, "can_mint": True}, "can_mint", secret=secret)
    last = world.mint(secret)
    principal = world.access.authenticate(f"Bearer {last['token']}")
    assert len(principal.accounts) == MAX_ANCESTORS + 2
    # A row that was changed by hand.
    world.tokens.update(last["id"], {"policy": {"can_mint": True}})
    world.access.forget(None)
    world.refused(404, "endpoint_not_found", FIVE, secret=last["token"])


def test_a_family_has_a_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "MAX_DESCENDANTS", 2)
    child = world.mint(can_mint=True)
    world.mint(child["token"])
    for secret in (world.secret, child["token"]):
        world.refused(429, "rate_limit_exceeded", FIVE, secret=secret)


def test_minting_is_a_request_of_the_parent(world: World) -> None:
    secret, parent = world.make(policy={"can_mint": True}, max_requests=2)
    world.mint(secret)
    world.mint(secret)
    world.refused(429, "quota_exceeded", FIVE, secret=secret)
    assert world.tokens.get(parent.id).request_count == 2


def test_minting_is_under_the_limits_of_a_request(sqlite_url: str) -> None:
    world = World(sqlite_url, rates=Rates(address=3, token=2), max_concurrent=1)
    result = world.ask(FIVE)
    assert result.code == 201
    assert result.one("x-proxy-ratelimit-limit-requests") == "2"
    world.mint()
    assert set(world.limited.places.taken.values()) == {0}, "the place is free again"
    world.refused(429, "rate_limit_exceeded", FIVE)
    world.refused(429, "rate_limit_exceeded", FIVE, secret="sk-" + "z" * 22)
    assert set(world.limited.places.taken.values()) == {0}


def test_a_preflight_counts_for_its_address(sqlite_url: str) -> None:
    world = World(sqlite_url, origins=("https://a.test",), rates=Rates(address=1))
    codes = [world.ask(b"", method="OPTIONS", headers=[ORIGIN, ASKED]).code for _ in range(2)]
    assert codes == [204, 429]
    world.refused(429, "rate_limit_exceeded", FIVE)


class Peek:
    """A piece of a body that looks whose requests are in flight when it is read."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.owners: list[str | None] = []

    def __bytes__(self) -> bytes:
        self.owners += [owner.token_id for _, owner in self._world.live.owned()]
        return b'{"duration_'


@pytest.mark.parametrize(
    ("interruption", "status", "code"),
    [
        (TokenRevoked(ClientError(code="token_inactive")), 401, "token_inactive"),
        (ShuttingDown(), 503, "draining"),
    ],
)
def test_a_request_is_in_flight_until_its_body_has_been_read(
    world: World, interruption: Cancelled, status: int, code: str
) -> None:
    peek = Peek(world)
    request = environ("POST", PATH, [("Content-Length", "99")], [peek, interruption], world.secret)
    result = serve(world.endpoint, request)
    assert (result.code, json.loads(result.body)["error"]["code"]) == (status, code)
    assert peek.owners == [world.parent.id]
    assert len(world.live) == 0
    assert [token.id for token in world.tokens.list()] == [world.parent.id]


def test_a_full_worker_and_one_that_ends_mint_nothing(world: World) -> None:
    others = [gevent.spawn(world.live.register) for _ in range(2)]
    gevent.joinall(others)
    world.refused(503, "overloaded", FIVE)
    world.live.drain()
    world.refused(503, "draining", FIVE)


def test_a_dead_parent_has_no_more_children(world: World) -> None:
    world.tokens.revoke(world.parent.id)
    world.refused(401, "token_inactive", FIVE)
    expired, _ = world.make(policy={"can_mint": True}, expires_at=world.now - timedelta(1))
    world.refused(401, "token_expired", FIVE, secret=expired)
    world.refused(401, "token_not_found", FIVE, secret="sk-" + "z" * 22)
    world.refused(401, "invalid_token", FIVE, secret="nonsense")
    world.projects.update(world.project.id, {"is_active": False})
    world.access.forget(None)
    world.tokens.update(world.parent.id, {"is_active": True})
    world.access.forget(None)
    world.refused(403, "project_inactive", FIVE)


@pytest.mark.parametrize("change", [{"is_active": False}, {"expires_at": timedelta(seconds=-1)}])
def test_a_parent_that_dies_while_its_request_is_read_has_no_child(
    world: World, change: dict[str, Any]
) -> None:
    secret, middle = world.make(policy={"can_mint": True}, lineage=[world.parent.id])
    assert world.ask(FIVE, secret).code == 201
    if "expires_at" in change:
        change = {"expires_at": world.now + change["expires_at"]}
    for dying in (world.parent, middle):
        # What was known of it when it came is all that the endpoint has.
        world.tokens.update(dying.id, change)
        world.refused(401, "token_inactive", FIVE, secret=secret)
        world.tokens.update(
            dying.id, {"is_active": True, "expires_at": world.now + timedelta(hours=1)}
        )
    assert world.ask(FIVE, secret).code == 201


def test_who_asks_must_be_allowed_and_endpoints_are_another_matter(sqlite_url: str) -> None:
    limited = {"allowed_ips": ["192.0.2.0/24"], "allowed_origins": ["https://a.test"]}
    world = World(sqlite_url, allowed_endpoints=["/v1/models"], allowed_methods=["GET"], **limited)
    world.refused(400, "origin_required", FIVE)
    world.refused(403, "origin_not_allowed", FIVE, headers=[("Origin", "https://b.test")])
    assert world.ask(FIVE, headers=[ORIGIN]).code == 201
    world.tokens.update(world.parent.id, {"policy": {"allowed_ips": ["198.51.100.0/24"]}})
    world.access.forget(None)
    world.refused(403, "ip_not_allowed", FIVE, headers=[ORIGIN])


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods(world: World, method: str) -> None:
    result = world.ask(FIVE, method=method)
    assert (result.code, result.one("Allow")) == (405, "POST")
    assert bool(result.body) == (method != "HEAD")


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT"])
def test_methods_that_no_token_may_use(world: World, method: str) -> None:
    """Before the token is looked at."""
    result = world.ask(FIVE, "wrong", method=method)
    assert (result.code, result.one("Allow")) == (405, "POST")


@pytest.mark.parametrize("target", [f"{PATH}/", "/%76%31/proxy/tokens", "//v1/proxy/tokens"])
def test_another_spelling_is_nothing(world: World, target: str) -> None:
    world.refused(404, "endpoint_not_found", FIVE, target=target)


def test_a_store_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.access.authenticate(f"Bearer {world.secret}")

    def away(*_: Any, **__: Any) -> None:
        raise StoreError

    monkeypatch.setattr(world.tokens, "create", away)
    result = world.ask(FIVE)
    assert (result.code, bool(result.one("Retry-After"))) == (503, True)


def test_a_defect_of_the_proxy(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(world.tokens, "create", lambda **_: 1 / 0)
    result = world.ask(FIVE)
    assert result.code == 500
    assert b"division" not in result.body
    assert "minting failed" in caplog.text
    assert world.secret not in caplog.text


def test_a_killed_worker_sends_no_response(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(**_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(world.tokens, "create", killed)
    assert isinstance(world.ask(FIVE).error, SystemExit)


def test_browsers(sqlite_url: str) -> None:
    world = World(sqlite_url, origins=("https://a.test",))
    wants = ("Access-Control-Request-Headers", "authorization")
    preflight = world.ask(b"", method="OPTIONS", headers=[ORIGIN, ASKED, wants])
    assert (preflight.code, preflight.body) == (204, b"")
    assert preflight.all("Access-Control-Allow-Origin") == ["https://a.test"]
    assert preflight.one("Access-Control-Allow-Headers") == "authorization"
    assert world.tokens.list() == [world.tokens.get(world.parent.id)]
    for result in (world.ask(FIVE, headers=[ORIGIN]), world.ask({}, headers=[ORIGIN])):
        assert result.all("Access-Control-Allow-Origin") == ["https://a.test"]
        assert result.one("Vary") == "Origin"
    stranger = world.ask(FIVE, headers=[("Origin", "https://b.test")])
    assert stranger.all("Access-Control-Allow-Origin") == []


def test_both_entrances_respond_alike(world: World) -> None:
    fixed = [("X-Request-ID", "r1")]
    for method, body in (("POST", {}), ("GET", FIVE), ("HEAD", FIVE), ("OPTIONS", FIVE)):
        front = world.ask(body, method=method, headers=fixed)
        behind = world.ask(body, method=method, headers=fixed, door=world.flask.wsgi_app)
        assert (front.status, front.headers, front.body) == (
            *(behind.status, behind.headers, behind.body),
        )
    assert len(world.answered) == 8, "each is reported once"
    made = world.ask(FIVE, door=world.flask.wsgi_app)
    assert made.code == 201


@pytest.mark.parametrize(
    ("target", "ours"),
    [
        (PATH, True),
        (f"{PATH}?a=b", True),
        (f"{PATH}/", False),
        (f"{PATH}x", False),
        ("/v1/proxy", False),
        ("/v1/models", False),
    ],
)
def test_what_it_takes(target: str, ours: bool) -> None:
    assert handles(target) is ours


def test_the_audit_log_knows_who_minted_and_who_was_not_let(world: World) -> None:
    child = world.mint(allowed_models=["gpt-4.1-mini"])
    world.refused(404, "endpoint_not_found", FIVE, secret=child["token"])
    world.refused(401, "token_not_found", FIVE, secret="sk-" + "x" * 22)
    ((entry,), _) = world.audit.find({}, 10, 0)
    assert (entry.action, entry.actor) == ("token.mint", f"token:{world.parent.id}")
    assert (entry.project_id, entry.token_id) == (world.project.id, child["id"])
    assert entry.details["after"]["parent_id"] == world.parent.id
    assert entry.details["after"]["allowed_models"] == ["gpt-4.1-mini"]
    (denied,) = world.recorder.denials.due()
    assert (denied.action, denied.actor) == ("token.mint", f"token:{child['id']}")
    assert child["token"] not in str(entry)


@pytest.mark.parametrize("which", ["before_body", "before_minting"])
def test_a_mint_that_ends_at_any_step_leaves_nothing(
    sqlite_url: str, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(sqlite_url, rates=Rates(address=10_000), max_concurrent=2)
    admitted, settled = list[str](), list[str]()
    take_quota, settle = world.access.take_quota, world.access.settle

    def counted_take_quota(*args: Any) -> None:
        take_quota(*args)
        admitted.append("")

    def counted_settle(*args: Any) -> None:
        settle(*args)
        settled.append("")

    monkeypatch.setattr(world.access, "take_quota", counted_take_quota)
    monkeypatch.setattr(world.access, "settle", counted_settle)
    steps = getattr(world.endpoint, which)
    for at, step in enumerate(steps):
        for done in (False, True):
            for error in (
                ClientError(),
                ZeroDivisionError(),
                ShuttingDown(),
                TokenRevoked(ClientError(code="token_inactive")),
                gevent.GreenletExit(),
                SystemExit(),
            ):

                def interrupted(
                    context: Any,
                    step: Any = step,
                    done: bool = done,
                    error: BaseException = error,
                ) -> None:
                    if done:
                        step(context)
                    raise error

                changed = (*steps[:at], interrupted, *steps[at + 1 :])
                monkeypatch.setattr(world.endpoint, which, changed)
                result = world.ask({"duration_minutes": 5})
                assert result.error is not None or result.code >= 400
                assert len(world.live) == 0
                assert not any(world.limited.places.taken.values())
                assert world.limited.throttle._unsettled == {}
                assert len(settled) == len(admitted)
    assert len(world.tokens.list()) == 1
    assert len(admitted) == (6 if which == "before_minting" else 0)
