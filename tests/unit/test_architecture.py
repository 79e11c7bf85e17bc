"""The house rules: rows, fences, documented settings, one error shape.

When one of these fails, the change is wrong or the rule is; the rule is then changed here, together
with docs/concepts/architecture.md, and not worked around.
"""

import ast
import re
import sys
from pathlib import Path

import grimp
import pytest

from proxy.core import errors
from proxy.core.errors import STATUS_BY_CODE
from proxy.settings.settings import variable_names
from tests.support.paths import ROOT

MODULES = sorted((ROOT / "proxy").rglob("*.py"))

#: Rooms of `proxy`, from the top row to the bottom. A room may import those of its own row and of
#: lower rows; no circle leads through rooms.
ROWS: list[set[str]] = [
    {"server", "cli"},
    {"app", "wiring", "shipper"},
    {"web"},
    {"gateway"},
    {"ratelimit"},
    {"auth", "audit"},
    {"quota", "routing", "cache", "store", "metrics", "events"},
    {"settings", "logs", "upstream", "providers", "policy", "crypto", "runtime", "maintenance"}
    | {"usage"},
    {"tools"},
    {"core"},
]
ROW_OF = {room: len(ROWS) - 1 - number for number, row in enumerate(ROWS) for room in row}

#: Rooms that read the settings; all others are given what they need.
SEE_SETTINGS = {"app", "wiring", "shipper", "cli", "server", "settings"}
#: Room → rooms below it that it must not import all the same.
NEVER: dict[str, set[str]] = {
    "cli": {"auth", "gateway", "web"},
    "shipper": {"gateway", "web"},
    "upstream": {"store"},
    "gateway": {"store"},
}


#: Library → modules (or packages) below `proxy` that may import it.
FENCES: dict[str, set[str]] = {
    "flask": {"web", "app"},
    "werkzeug": {"web"},
    "requests": {"tools", "upstream", "app", "cli", "events.sinks.http"},
    "urllib3": {"tools", "upstream", "cli"},
    "geventhttpclient": {"upstream"},
    "psycopg": {"store"},
    "pymysql": {"store"},
    "dbutils": {"store"},
    "sqlite3": {"store"},
    "certifi": {"upstream"},
    "cryptography": {"crypto.cipher", "crypto.sealer"},
    "lmdb": {"cache.backends.node"},
    "gunicorn": {"server.worker", "server"},
    "boto3": {"events.sinks.cloudwatch"},
    "botocore": {"events.sinks.cloudwatch"},
    "watchtower": {"events.sinks.cloudwatch"},
    "redis": {
        "runtime.redis",
        "runtime.redis_connections",
        "events.sinks.redis",
        "shipper.redis_group",
        "ratelimit.redis",
        "auth.change_bus",
        "cache.redis_claims",
        "cache.backends.redis",
        "cache.backends.redis_calls",
    },
    "dotenv": {"settings.settings", "cli"},
    "yaml": {"providers.yaml_text"},
    "cachetools": {
        "auth",
        "cache.backends.node",
        "cache.flights",
        "cache.redis_claims",
        "cache.response_cache",
        "routing.states",
        "routing.known_models",
        "routing.model_list",
        "cache.backends.memory",
    },
    "click": {"cli"},
    "rich": {"tools", "cli"},
    "prometheus_client": {"metrics.exposition"},
    "gevent": {
        "wiring.caching",
        "wiring.routing",
        "server.worker",
        "runtime.yielding",
        "runtime.periodic",
        "runtime.redis_connections",
        "runtime.singleflight",
        "server.request_parser",
        "server.profiling",
        "maintenance.scheduler",
        "logs.async_handler",
        "metrics.reporter",
        "server.supervisor",
        "routing.key_test",
        "routing.known_models",
        "upstream.adapter",
        "upstream.raw_response",
        "upstream.read_timeouts",
        "upstream.pool",
        "upstream.transport",
        "upstream.websocket",
        "gateway.cached_request",
        "gateway.caching",
        "gateway.idempotency",
        "gateway.inflight",
        "cache.flight",
        "cache.flights",
        "cache.held_flights",
        "cache.flight_socket",
        "cache.redis_claims",
        "events.gate",
        "events.queue",
        "events.spool.recovery",
        "events.sink_worker",
        "events.pump",
        "ratelimit.batching",
        "auth.cache",
        "quota.usage_counter",
        "auth.known",
        "quota.permits",
        "quota.stored_reads",
        "auth.change_bus",
        "auth.revalidation",
        "audit.writer",
        "auth.shortfalls",
        "cache.backends.redis",
        "cache.backends.writer_thread",
        "store",
    },
}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("proxy", include_external_packages=True, cache_dir=None)


def ours(module: str) -> str:
    """``proxy.web.status`` → ``web``."""
    return module.split(".")[1] if "." in module else ""


@pytest.fixture(scope="module")
def imports(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Room → other rooms that it imports."""
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        if module.startswith("proxy."):
            others = {
                ours(name)
                for name in graph.find_modules_directly_imported_by(module)
                if name.startswith("proxy.")
            }
            found.setdefault(ours(module), set()).update(others - {ours(module)})
    return found


def test_every_room_has_a_row(imports: dict[str, set[str]]) -> None:
    assert set(imports) == set(ROW_OF)


def test_imports_do_not_go_up(graph: grimp.ImportGraph) -> None:
    wrong = []
    for module in sorted(graph.modules):
        if not module.startswith("proxy."):
            continue
        room = ours(module)
        for imported in graph.find_modules_directly_imported_by(module):
            other = ours(imported) if imported.startswith("proxy.") else ""
            if not other or other == room:
                continue
            if ROW_OF[other] > ROW_OF[room] or other in NEVER.get(room, set()):
                wrong.append(f"{module} imports {imported}")
            if other == "settings" and room not in SEE_SETTINGS:
                wrong.append(f"{module} imports {imported}: it must be given what it needs")
    assert not wrong


def test_no_circle_leads_through_rooms(imports: dict[str, set[str]]) -> None:
    left = {room: set(others) for room, others in imports.items()}
    while free := {room for room, others in left.items() if not others & set(left)}:
        for room in free:
            del left[room]
    assert not left, f"these rooms import each other in a circle: {sorted(left)}"


def test_every_room_stands_in_the_docs() -> None:
    page = (ROOT / "docs" / "concepts" / "architecture.md").read_text()
    table = page.partition("## The way of one request")[0]
    assert not {room for room in ROW_OF if f"`{room}`" not in table and f"`{room}/`" not in table}


def test_libraries_stay_behind_their_fences(graph: grimp.ImportGraph) -> None:
    wrong = []
    for library, allowed in FENCES.items():
        if library not in graph.modules:
            continue
        for module in graph.find_modules_that_directly_import(library):
            inside = module.removeprefix("proxy.")
            if inside not in allowed and ours(module) not in allowed:
                wrong.append(f"{module} imports {library}")
    assert not wrong


def test_every_library_has_a_fence_or_is_free(graph: grimp.ImportGraph) -> None:
    free = {"orjson"}
    used = {name for name in graph.modules if not name.startswith("proxy")}
    assert used - set(FENCES) - free - sys.stdlib_module_names == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are(path: Path) -> None:
    source = path.read_text()
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), "no module docstring"


def test_tests_share_what_is_no_test() -> None:
    """What two of them need stands in a module beside them."""
    shared = re.compile(r"^\s*(?:from|import) (?:tests)?\.(?:\w+\.)*test_", re.MULTILINE)
    wrong = [
        path.name for path in (ROOT / "tests").rglob("*.py") if shared.search(path.read_text())
    ]
    assert not wrong


def test_nothing_happens_at_import() -> None:
    """No module reads the environment, opens a socket or spawns when it is imported."""
    forbidden = re.compile(r"\b(os\.environ|os\.getenv|gevent\.spawn|socket\.socket\(|open\()")
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
                continue
            found = forbidden.search(ast.unparse(node))
            assert not found, f"{dotted(path)}: {ast.unparse(node)[:80]}"


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    missing = {name for name in variable_names() if f"`{name}`" not in page}
    assert not missing


def test_one_error_shape() -> None:
    """Every code has a status, a wording and a line in the docs; one function builds the shape."""
    assert set(errors.BY_CODE) == set(STATUS_BY_CODE)
    page = (ROOT / "docs" / "management-api.md").read_text()
    assert not {code for code in STATUS_BY_CODE if f"`{code}`" not in page}
    builders = [dotted(path) for path in MODULES if re.search(r'"error":\s*\{', path.read_text())]
    assert set(builders) <= {"proxy.gateway.responses", "proxy.tools.fake_upstream"}


def test_every_code_that_is_raised_is_known() -> None:
    raised = {
        code
        for path in MODULES
        for code in re.findall(r'\bcode(?:: str)?\s*=\s*"([a-z_]+)"', path.read_text())
    }
    assert raised <= set(STATUS_BY_CODE)
