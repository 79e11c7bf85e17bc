"""A small app around the management blueprints, as ``app.py`` builds it, without the guard."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import flask
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from proxy.audit.denials import DenialAggregator
from proxy.audit.writer import AuditWriter
from proxy.cache.response_cache import ResponseCache
from proxy.core.errors import ProxyError
from proxy.crypto.cipher import Cipher
from proxy.providers.records import RoutingRecords
from proxy.providers.status import KeyTest, ProviderStatus
from proxy.store.audit import AuditEntry, AuditLog
from proxy.store.cache_purges import CachePurges
from proxy.store.database import Database
from proxy.store.grants import Grants
from proxy.store.key_health import KeyHealth
from proxy.store.mappings import Mappings
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.provider_keys import ProviderKeys
from proxy.store.providers import Providers
from proxy.store.tokens import Tokens
from proxy.store.usage import UsageLedger
from proxy.usage.pricing import PriceList
from proxy.web.api import audit as audit_page
from proxy.web.api import cache as cache_page
from proxy.web.api import keys as keys_page
from proxy.web.api import mappings as mappings_page
from proxy.web.api import projects as projects_page
from proxy.web.api import providers as providers_page
from proxy.web.api import routing_health as health_page
from proxy.web.api import tokens as tokens_page
from proxy.web.api import usage as usage_page
from proxy.web.api.routing_catalog import RoutingCatalog
from proxy.web.audit_trail import AuditTrail
from proxy.web.replies import flask_error

UPSTREAM_KEY = "sk-proj-0123456789abcdef"
ABSENT = "00000000-0000-4000-8000-000000000000"


class LazyRule(Rule):
    """Compiles what builds its URL when one is built, which these views never do.

    Compiling it at once is most of the cost of an app, and each test makes one.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        def build(rule: Rule, **values: Any) -> tuple[str, str]:
            compiled = Rule._compile_builder(rule, append_unknown)
            return compiled.__get__(rule, None)(**values)  # type: ignore[no-any-return]

        return build


class Management:
    """The API over a test client, and the store behind it. ``clock`` is what the views see."""

    def __init__(
        self,
        url: str,
        prices: PriceList | None = None,
        *,
        allow_private: bool = False,
        caches: bool = True,
    ) -> None:
        database = self.database = Database.from_url(url)
        Migrator(database).migrate()
        cipher = Cipher(b"k" * 32)
        self.projects = Projects(database, cipher)
        self.tokens = Tokens(database)
        self.providers = Providers(database)
        self.grants = Grants(database, cipher)
        self.ledger = UsageLedger(database)
        self.audit = AuditLog(database)
        #: Entries as the event sinks got them.
        self.told: list[AuditEntry] = []
        self.recorder = AuditWriter(self.audit, DenialAggregator(), self.told.append)
        trail = self.trail = AuditTrail(self.recorder, trusted_proxies=1)
        self.clock = datetime(2030, 1, 1, tzinfo=UTC)
        app = flask.Flask("test")
        app.url_rule_class = LazyRule
        app.url_map.strict_slashes = False
        now: Callable[[], datetime] = lambda: self.clock  # noqa: E731
        #: The ids that would have been announced to the others.
        self.announced: list[str] = []
        announce = self.announced.append
        app.register_blueprint(
            projects_page.create_blueprint(
                self.projects,
                self.tokens,
                trail,
                announce=announce,
                provider_names=lambda: [provider.name for provider in self.providers.list()],
                allow_private=allow_private,
                caches=caches,
            ),
            url_prefix="/manage/projects",
        )
        app.register_blueprint(
            tokens_page.create_blueprint(self.projects, self.tokens, trail, now, announce=announce),
            url_prefix="/manage/tokens",
        )
        app.register_blueprint(
            usage_page.create_blueprint(self.ledger, prices, now), url_prefix="/manage/usage"
        )
        app.register_blueprint(audit_page.create_blueprint(self.audit), url_prefix="/manage/audit")
        #: The response cache of this worker, and the log of purges.
        self.cache: ResponseCache | None = None
        self.purges = CachePurges(database)
        purging = cache_page.Purging(self.projects, self.purges, lambda: self.cache, announce)
        app.register_blueprint(
            cache_page.create_blueprint(purging, trail, 300.0), url_prefix="/manage/cache"
        )
        app.register_blueprint(cache_page.create_flush_blueprint(purging, trail))
        #: What the configuration file holds, what breakers say, and what testing a key returns.
        self.file = RoutingRecords()
        self.breakers: dict[str, ProviderStatus] = {}
        self.key_tests: list[KeyTest] = []
        self.database_state, self.redis_state = "ok", "ok"
        self.catalog = RoutingCatalog(
            Providers(database),
            ProviderKeys(database, cipher),
            Mappings(database, lambda: {each.id for each in self.file.providers}),
            lambda: self.file,
        )
        self.key_health = KeyHealth(database)
        routing = {
            "providers": providers_page.create_blueprint(
                self.catalog, trail, self, lambda provider: self.key_tests, announce=announce
            ),
            "keys": keys_page.create_blueprint(
                self.catalog, trail, self.key_health, announce=announce
            ),
            "mappings": mappings_page.create_blueprint(self.catalog, trail, announce=announce),
            "health": health_page.create_blueprint(
                self.catalog,
                self.key_health,
                self,
                database=lambda: self.database_state,
                redis=lambda: self.redis_state,
            ),
        }
        for path, blueprint in routing.items():
            app.register_blueprint(blueprint, url_prefix=f"/manage/{path}")
        app.register_error_handler(ProxyError, flask_error)
        self.client: FlaskClient = app.test_client()

        @app.errorhandler(HTTPException)
        def _http(error: HTTPException) -> Any:
            return flask.Response(status=error.code)

    def call(
        self, method: str, path: str, body: Any = None, status: int = 200, raw: bool = False
    ) -> Any:
        """The answer's JSON (None for an empty one), after its status was checked."""
        data = {} if body is None else {"json": body}
        answer = self.client.open("/manage" + path, method=method, **data)
        assert answer.status_code == status, (answer.status_code, answer.get_data(as_text=True))
        if raw:
            return answer
        return answer.get_json() if answer.get_data() else None

    def refused(
        self, method: str, path: str, body: Any, status: int, param: str | None = None
    ) -> dict[str, Any]:
        """The ``error`` of an answer that must be a refusal naming ``param``."""
        error: dict[str, Any] = self.call(method, path, body, status)["error"]
        assert error["param"] == param, error
        assert error["message"]
        return error

    def provider(self, provider_id: str) -> ProviderStatus:
        return self.breakers.get(provider_id, ProviderStatus())

    def made_provider(self, name: str = "openai", **more: Any) -> dict[str, Any]:
        body = {"name": name, "provider_type": "openai", "base_url": "https://api.example.com/v1"}
        made: dict[str, Any] = self.call("POST", "/providers", {**body, **more}, 201)
        return made

    def made_key(self, provider_id: str, name: str = "team-a", **more: Any) -> dict[str, Any]:
        body = {"provider_id": provider_id, "name": name, "value": UPSTREAM_KEY, **more}
        made: dict[str, Any] = self.call("POST", "/keys", body, 201)
        return made

    def made_mapping(self, provider_id: str, alias: str = "fast", **more: Any) -> dict[str, Any]:
        body = {"alias_name": alias, "provider_id": provider_id, "provider_model_name": "gpt-4.1"}
        made: dict[str, Any] = self.call("POST", "/mappings", {**body, **more}, 201)
        return made

    def project(self, name: str = "Acme", **more: Any) -> dict[str, Any]:
        body = {"name": name, "api_key": UPSTREAM_KEY, **more}
        made: dict[str, Any] = self.call("POST", "/projects", body, 201)
        return made

    def token(self, project_id: str, **more: Any) -> dict[str, Any]:
        body = {"project_id": project_id, "duration_minutes": 60, **more}
        made: dict[str, Any] = self.call("POST", "/tokens", body, 201)
        return made
