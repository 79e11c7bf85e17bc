"""The house rules: rows, fences, documented settings, one error shape.

When one of these fails, the change is wrong or the rule is; the rule is then changed here, together
with docs/architecture.md, and not worked around.
"""

import ast
import dataclasses
import re
from pathlib import Path

import grimp
import pytest

from proxy import messages
from proxy.errors import STATUS_BY_CODE
from proxy.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "proxy").rglob("*.py"))

ROW_0 = {"errors", "messages", "parsers", "prices", "current", "consistency", "redisoptions"}
ROW_0 |= {"sanitizer", "shorten"}
ROW_0 |= {"shares", "turns", "yielding"}
ROW_2 = {"store", "events", "providers", "metrics", "limits"}
#: Package or module below `proxy` → which others it may import. Imports go down only; neighbours on
#: a row do not import each other.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "messages": set(),
    "parsers": set(),
    "prices": set(),
    "current": set(),
    "consistency": set(),
    "redisoptions": set(),
    "shares": set(),
    "turns": set(),
    "sanitizer": set(),
    "shorten": set(),
    "yielding": set(),
    "settings": ROW_0,
    "logs": ROW_0,
    "accesslog": ROW_0,
    "logwriter": ROW_0,
    "cipher": ROW_0,
    "usage": ROW_0,
    "policy": ROW_0,
    "limits": ROW_0,
    "store": ROW_0 | {"cipher"},
    "events": ROW_0 | {"usage"},
    "providers": ROW_0 | {"usage"},
    "metrics": ROW_0,
    "auth": ROW_0 | {"store", "policy"},
    "relay": ROW_0 | {"providers", "usage"},
    "web": ROW_0 | ROW_2 | {"auth", "relay", "usage", "policy"},
    "housekeeping": ROW_0,
    # For `app` alone.
    "composition": ROW_0
    | {"accesslog", "cipher", "housekeeping", "settings"}
    | {"auth", "events", "limits", "metrics", "relay", "store", "web"},
    "app": ROW_0 | {"auth", "composition", "events", "providers", "relay", "settings", "web"},
    "wsgi": {"app", "settings", "errors", "logs"},
    "cli": {"app", "settings", "store", "cipher", "auth", "errors", "events", "logs", "metrics"}
    | {"policy"},
    "worker": {"errors", "http1", "logwriter", "profiling", "yielding"},
    # The table of header names that do not go upstream.
    "http1": {"errors", "relay", "shares", "yielding"},
    "profiling": set(),
    "master": {"settings"},
}

#: Library → modules (or packages) below `proxy` that may import it.
FENCES: dict[str, set[str]] = {
    "flask": {"web", "app"},
    "werkzeug": {"web"},
    "requests": {"relay", "composition.relay", "cli", "events.sinks.http"},
    "urllib3": {"relay", "cli"},
    "geventhttpclient": {"relay"},
    "psycopg": {"store"},
    "pymysql": {"store"},
    "dbutils": {"store"},
    "sqlite3": {"store"},
    "certifi": {"relay"},
    "cryptography": {"cipher"},
    "gunicorn": {"worker", "http1"},
    "boto3": {"events.sinks.cloudwatch"},
    "botocore": {"events.sinks.cloudwatch"},
    "watchtower": {"events.sinks.cloudwatch"},
    "redis": {"redisoptions", "events.sinks.redis", "events.redis", "limits.redis", "auth.redis"},
    "dotenv": {"settings", "cli"},
    "cachetools": {"auth"},
    "click": {"cli"},
    "rich": {"cli"},
    "prometheus_client": {"metrics.exposition"},
    "gevent": {
        "worker",
        "yielding",
        "http1.head",
        "profiling",
        "housekeeping",
        "logwriter",
        "metrics.reporter",
        "master",
        "relay.adapter",
        "relay.answer",
        "relay.patience",
        "relay.pool",
        "relay.transport",
        "relay.tunnel",
        "relay.watch",
        "limits.redis",
        "events.gate",
        "events.queue",
        "events.adoption",
        "events.delivery",
        "events.drain",
        "limits.charges",
        "auth.cache",
        "auth.counts",
        "auth.known",
        "auth.leases",
        "auth.reads",
        "auth.redis",
        "auth.review",
        "auth.recorder",
        "auth.revocation",
        "auth.shortfalls",
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
    """``proxy.web.relay`` → ``web``."""
    return module.split(".")[1] if "." in module else ""


def test_imports_go_down_only(graph: grimp.ImportGraph) -> None:
    wrong = []
    for module in sorted(graph.modules):
        if not module.startswith("proxy."):
            continue
        room = ours(module)
        assert room in MAY_IMPORT, f"{module}: no row has been given to it"
        for imported in graph.find_modules_directly_imported_by(module):
            other = ours(imported) if imported.startswith("proxy.") else ""
            if other and other != room and other not in MAY_IMPORT[room]:
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_every_room_stands_in_the_docs() -> None:
    table = (
        (ROOT / "docs" / "architecture.md").read_text().partition("## The way of one request")[0]
    )
    missing = {
        room for room in MAY_IMPORT if f"`{room}`" not in table and f"`{room}/`" not in table
    }
    assert not missing


def test_the_cli_takes_only_credentials_of_auth(graph: grimp.ImportGraph) -> None:
    for module in graph.find_descendants("proxy.cli"):
        imported = graph.find_modules_directly_imported_by(module)
        assert {name for name in imported if ours(name) == "auth"} <= {"proxy.auth.credentials"}


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
    import sys

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
    names = {field.name.upper() for field in dataclasses.fields(Settings)}
    aliases = {name for field in dataclasses.fields(Settings) for name in field.metadata["aliases"]}
    missing = {name for name in names | aliases if f"`{name}`" not in page}
    assert not missing


def test_one_error_shape() -> None:
    """Every code has a status, a wording and a line in the docs; one function builds the shape."""
    assert set(messages.BY_CODE) == set(STATUS_BY_CODE)
    page = (ROOT / "docs" / "management-api.md").read_text()
    assert not {code for code in STATUS_BY_CODE if f"`{code}`" not in page}
    builders = [dotted(path) for path in MODULES if re.search(r'"error":\s*\{', path.read_text())]
    assert set(builders) <= {"proxy.web.replies", "proxy.cli.standin"}


def test_every_code_that_is_raised_is_known() -> None:
    raised = {
        code
        for path in MODULES
        for code in re.findall(r'\bcode(?:: str)?\s*=\s*"([a-z_]+)"', path.read_text())
    }
    assert raised <= set(STATUS_BY_CODE)
