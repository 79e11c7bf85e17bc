"""The table of policy fields: what each takes, and what it says otherwise."""

from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.policy.fields import FIELDS, check_together, fields_of, read_document
from tests.support.paths import ROOT


def refusal(name: str, value: Any) -> str:
    with pytest.raises(ClientError) as caught:
        FIELDS[name].read(name, value)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_request", name)
    assert str(error).startswith(f"`{name}`")
    return str(error)


LISTS = ["allowed_methods", "allowed_endpoints", "allowed_models", "allowed_ips", "allowed_origins"]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "value", [[], "x", {}, {"x": 1}, 1, True, [1], [None], [["x"]], ["\0"], ["a\nb"], ["x" * 257]]
)
def test_lists(name: str, value: Any) -> None:
    refusal(name, value)


@pytest.mark.parametrize("name", LISTS)
def test_empty_is_not_no_limit(name: str) -> None:
    assert "null" in refusal(name, [])
    refusal(name, ["x"] * 101)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("allowed_methods", ["", "G", "GET ", "GET,POST", "*", "GÉT", "X" * 21]),
        (
            "allowed_endpoints",
            [
                "",
                "/",
                "/v1",
                "/v1/",
                "/v2/models",
                "v1/models",
                "/chat/completions",
                "/v1/models/",
                "/v1//models",
                "/v1/mod*",
                "/v1/**/models",
                "/v1/a***",
                "/v1/a?b",
                "/v1/a%20b",
                "/v1/../models",
                "/v1/.",
                "/v1/a;b",
                "/v1/a\\b",
                "/V1/models",
                "https://x/v1/models",
                "**",
                "/**",
            ],
        ),
        ("allowed_models", [" gpt", "gpt ", "gpt-4?", "gpt-[34]"]),
        ("allowed_ips", ["10.0.0.1/8", "localhost"]),
        ("allowed_origins", ["*", "null", "https://a.test/"]),
        ("forwarded_headers", ["", "a b", "a:"]),
    ],
)
def test_entries(name: str, values: list[str]) -> None:
    for value in values:
        assert repr(value) in refusal(name, [value])


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "n",
        ["n"],
        {"n": "1"},
        {"n": [1]},
        {"n": None},
        {"": ["1"]},
        {"a b": ["1"]},
        {'a"b': ["1"]},
        {"ä": ["1"]},
        {"n": ["x"] * 101},
        {f"n{number}": ["1"] for number in range(51)},
    ],
)
def test_params(value: Any) -> None:
    refusal("allowed_params", value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "X-A",
        [1],
        {"X-A": []},
        {"X-A": "red"},
        {"X A": ["red"]},
        {"X-A": ["*"], "x-a": ["*"]},
    ],
)
def test_required_headers(value: Any) -> None:
    refusal("required_headers", value)


def test_required_headers_in_two_spellings() -> None:
    field = FIELDS["required_headers"]
    assert field.read("required_headers", ["X-A", "X-B"]) == {"X-A": ["*"], "X-B": ["*"]}
    assert field.read("required_headers", {"X-A": ["red", "red"]}) == {"X-A": ["red"]}
    refusal("required_headers", ["X-A", "x-a"])


@pytest.mark.parametrize(
    "name", ["rate_limit_rpm", "rate_limit_tpm", "max_concurrent", "max_tokens_total"]
)
def test_integers(name: str) -> None:
    for value in (0, -1, 1.0, "1", True, None, [], 2**63, float("inf")):
        assert "null" in refusal(name, value)
    assert FIELDS[name].read(name, 1) == 1


@pytest.mark.parametrize("name", ["can_mint", "cut_in_flight"])
def test_booleans(name: str) -> None:
    for value in (0, 1, "true", None, []):
        refusal(name, value)
    assert FIELDS[name].read(name, False) is False


@pytest.mark.parametrize(
    "name",
    [
        *("on_disconnect", "on_revoke", "stream_usage", "breaker"),
        *("cache", "cache_scope", "coalesce", "idempotency"),
    ],
)
def test_choices(name: str) -> None:
    for value in ("", "Cut", True, None, ["cut"]):
        refusal(name, value)
    assert FIELDS[name].read(name, FIELDS[name].default) == FIELDS[name].default


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "api.openai.com",
            "ftp://h",
            "https://",
            "https://u:p@h",
            "https://h?x",
            "https://h#",
        ),
        *("https://h/ü", "https://h /", "https://h:0", "https://h:99999", "https://[::1", 1, []),
        "https://h/" + "x" * 2048,
    ],
)
def test_base_urls(value: Any) -> None:
    refusal("base_url", value)


def test_a_base_url_stays_as_it_was_given() -> None:
    for value in ("http://h", "https://H.test:8443/v1/", "https://[2001:db8::1]/prefix"):
        assert FIELDS["base_url"].read("base_url", value) == value


def test_names_of_providers() -> None:
    for value in (
        *(None, "openai", ["*", "openai"], [""], [" a"], ["a/b"], [1], ["a\n"], ["x"] * 101),
        ["x" * 257],
    ):
        refusal("providers", value)
    for good in ([], ["*"], ["b", "a"], ["eu azure"]):
        assert FIELDS["providers"].read("providers", good) == good
    assert FIELDS["providers"].read("providers", ["a", "a"]) == ["a"]


def test_retries() -> None:
    for value in (-1, 11, 1.0, "1", True, None):
        refusal("max_retries", value)
    for good in (0, 10):
        assert FIELDS["max_retries"].read("max_retries", good) == good


def test_places() -> None:
    assert set(fields_of("project")) | set(fields_of("token")) == set(FIELDS)
    assert set(fields_of("token")) - set(fields_of("project")) == {"max_tokens_total", "can_mint"}


def test_a_token_without_a_cache_of_its_own_has_its_project_s() -> None:
    assert fields_of("project")["cache"].default == "off"
    assert fields_of("token")["cache"].default is None
    assert fields_of("token")["can_mint"].default is False


def test_sharing_needs_a_cache() -> None:
    for good in ({}, {"coalesce": "off"}, {"coalesce": "on", "cache": "opt_in"}):
        check_together(good)
    for bad in ({"coalesce": "on"}, {"coalesce": "on", "cache": "off", "idempotency": "on"}):
        with pytest.raises(ClientError) as caught:
            check_together(bad)
        assert (caught.value.status, caught.value.param) == (400, "coalesce")


def test_every_field_is_documented() -> None:
    for page in ("governance.md", "management-api.md"):
        text = (ROOT / "docs" / page).read_text()
        assert not [name for name in FIELDS if f"`{name}`" not in text], page


def test_documents() -> None:
    assert read_document({}, "project") == {}
    assert read_document({"max_concurrent": 1, "allowed_ips": None}, "token") == {
        "max_concurrent": 1
    }
    for document in (None, [], {"x": 1}, {"max_concurrent": 0}, {"on_revoke": "cut"}):
        with pytest.raises(ValueError, match="token"):
            read_document(document, "token")
