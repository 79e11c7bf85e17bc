"""Base URLs, however they are written, and what a target is made of."""

import pytest

from proxy.providers.base import Target
from proxy.providers.config import mapping_config, provider_config
from proxy.providers.targets import target_for
from tests.support import routing_records
from tests.support.provider_dialects import call, target


@pytest.mark.parametrize("kind", ["openai", "custom", "ollama"])
@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://h", "https://h/v1/models"),
        ("https://h/", "https://h/v1/models"),
        ("https://h/v1", "https://h/v1/models"),
        ("https://h/v1/", "https://h/v1/models"),
        ("http://h:11434/v1", "http://h:11434/v1/models"),
        ("https://h/api/v1", "https://h/api/v1/models"),
        ("https://h/api//v1//", "https://h/api/v1/models"),
        ("https://h/av1", "https://h/av1/v1/models"),
        ("https://[::1]:8/v1", "https://[::1]:8/v1/models"),
    ],
)
def test_openai_with_and_without_v1(kind: str, base_url: str, url: str) -> None:
    assert call(target(kind, base_url), "/v1/models").url == url


@pytest.mark.parametrize("root", ["https://r.openai.azure.com", "https://f/api/projects/p"])
@pytest.mark.parametrize("end", ["", "/", "/openai", "/openai/", "/openai/v1", "/openai/v1/"])
def test_azure(root: str, end: str) -> None:
    assert call(target("azure", root + end), "/v1/models").url == root + "/openai/v1/models"


@pytest.mark.parametrize(
    "end", ["", "/", "/v1beta", "/v1beta/", "/v1beta/openai", "/v1beta/openai/"]
)
def test_gemini(end: str) -> None:
    found = call(target("gemini", "https://g" + end), "/v1/models").url
    assert found == "https://g/v1beta/openai/models"


def test_gemini_behind_another_path() -> None:
    found = call(target("gemini", "https://g/studio/v1beta/openai"), "/v1/models").url
    assert found == "https://g/studio/v1beta/openai/models"


@pytest.mark.parametrize("kind", ["openai", "azure", "gemini", "ollama", "custom"])
def test_connections_go_to_public_addresses_unless_private_ones_are_allowed(kind: str) -> None:
    """The mark is in the URL, so that whatever sends the call obeys it."""
    for config, origin in (({}, "public+https://h/"), ({"allow_private": True}, "https://h/")):
        record = routing_records.provider("x", kind, base_url="https://h", **config)
        compiled = provider_config(record.config, kind)
        where = target_for(record, None, mapping_config({}), compiled)
        assert call(where, "/v1/models").url.startswith(origin)
        assert where.host == "h"


def test_a_target_has_everything() -> None:
    edits = {"temperature": 0.5, "drop": ["user"]}
    found = target("custom", "https://h:1/x/v1", "m", edits, timeout=5)
    assert found == Target(
        "https://h:1",
        "h:1",
        "/x",
        provider="shared",
        provider_type="custom",
        model="m",
        edits=mapping_config(edits),
        config=provider_config({"timeout": 5}, "custom"),
        shared=True,
    )
