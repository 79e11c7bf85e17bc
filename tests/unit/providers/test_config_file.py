"""The configuration file: records of a good one, and every problem of a bad one with its place."""

import re
from functools import partial
from pathlib import Path

import pytest

from proxy.policy.fields import read_fields
from proxy.providers.config_file import ConfigFile, ConfigFileError, read_file
from tests.support.paths import ROOT

KEY = "sk-a-secret-of-the-configuration-file"
GOOD = """
default_api: main
providers:
  - name: main
    provider_type: openai
    base_url: https://api.openai.com/v1
    is_default: true
    config: {timeout: 60, key_strategy: priority}
    keys:
      - {name: team-a, value: "env:KEY_A", weight: 2, models: ["gpt-*"]}
      - {name: team-b, value: "file:key-b"}
  - {name: blue, provider_type: azure, base_url: https://x.openai.azure.com,
     config: {api_version: 2024-10-21}}
mappings:
  - {alias_name: smart, provider: blue, provider_model_name: b, order_index: 1}
  - {alias_name: smart, provider: main, provider_model_name: a, config: {temperature: 0.5}}
"""
API = """
apis:
  other:
    base_url: https://llm.example
    allowed_endpoints: [/v1/chat/completions, /v1/models/]
    allowed_methods: [get, POST]
    timeouts: {request: 1m30s, response_header: 30s}
    param_whitelist: {model: ["gpt-*"]}
    allowed_origins: [https://app.example]
    required_headers: [origin]
    keys: [{name: one, value: "env:KEY_A"}]
"""


def read(folder: Path, text: str) -> ConfigFile:
    path = folder / "providers.yaml"
    path.write_text(text)
    (folder / "key-b").write_text(f"{KEY}-b\n")
    return read_file(str(path), {"KEY_A": KEY}, partial(read_fields, scope="project"))


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigFileError) as caught:
        read(folder, text)
    found = caught.value.problems
    assert KEY not in "".join(found)
    return found


def test_a_good_file_becomes_records(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD)
    records = file.records
    assert file.default_api == "main"
    main, blue = records.providers
    assert (main.name, main.provider_type, main.is_default) == ("main", "openai", True)
    assert main.base_url == "https://api.openai.com/v1"
    assert main.config == {"timeout": 60, "key_strategy": "priority"}
    assert blue.config == {"api_version": "2024-10-21"}
    first, second = records.keys
    assert (first.value, first.record.weight, first.record.models) == (KEY, 2, ("gpt-*",))
    assert (second.value, second.record.weight) == (f"{KEY}-b", 1)
    assert first.record.provider_id == second.record.provider_id == main.id
    targets = [(each.order_index, each.provider_model_name) for each in records.mappings]
    assert targets == [(0, "a"), (1, "b")]
    assert {each.source for each in (*records.providers, *records.mappings)} == {"file"}
    assert first.record.source == "file"
    assert KEY not in repr(file)


def test_an_entry_keeps_its_id(tmp_path: Path) -> None:
    def ids(text: str) -> list[str]:
        records = read(tmp_path, text).records
        keys = [key.record.id for key in records.keys]
        return [each.id for each in (*records.providers, *records.mappings)] + keys

    before = ids(GOOD)
    assert len(set(before)) == len(before) == 6
    assert ids(GOOD.replace("timeout: 60", "timeout: 61")) == before


def test_the_form_of_llm_proxy(tmp_path: Path) -> None:
    (provider,) = read(tmp_path, API).records.providers
    assert (provider.name, provider.provider_type) == ("other", "custom")
    assert provider.config == {"timeout": 90, "ttft_timeout": 30}
    assert provider.policy == {
        "allowed_endpoints": [
            "/v1/chat/completions",
            "/v1/chat/completions/**",
            "/v1/models",
            "/v1/models/**",
        ],
        "allowed_methods": ["GET", "POST"],
        "allowed_params": {"model": ["gpt-*"]},
        "allowed_origins": ["https://app.example"],
        "required_headers": {"origin": ["*"]},
    }


def test_the_name_of_an_api_may_be_its_type(tmp_path: Path) -> None:
    (provider,) = read(tmp_path, API.replace("other:", "openai:")).records.providers
    assert provider.provider_type == "openai"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("env:KEY_A", KEY, "providers[0].keys[0].value: expected env:NAME or file:PATH"),
        ("env:KEY_A", f"env:{KEY}", "providers[0].keys[0].value: expected env:NAME or file:PATH"),
        ("env:KEY_A", "env:ABSENT", "providers[0].keys[0].value: expected ABSENT in the environ"),
        ("env:KEY_A", "env:absent", "value: expected the variable that it names in the environ"),
        ("file:key-b", "file:absent", "providers[0].keys[1].value: the file that it names cannot"),
        ("team-b", "team-a", "providers[0].keys[1]: another key of this provider has the name"),
        ("weight: 2", "weight: -1", "providers[0].keys[0]: `weight` must be"),
        ("weight: 2", "wait: 2", "providers[0].keys[0]: unknown name 'wait'; expected some of"),
        ("name: blue", "name: main", "providers[1]: another provider has the name 'main'"),
        ("provider_type: azure, ", "", "providers[1]: `provider_type` is required"),
        ("timeout: 60", "timeout: 0", "providers[0]: `config.timeout` must be"),
        ("timeout: 60", "timeuot: 60", "providers[0]: Unknown field: 'config.timeuot'"),
        ("https://x.openai.azure.com", "http://10.0.0.1", "providers[1]: `base_url` leads to a pr"),
        ("https://x.openai.azure.com", "nonsense", "providers[1]: `base_url` must be http"),
        ("provider: blue", "provider: green", "mappings[0].provider: expected the name of a pro"),
        ("temperature: 0.5", "model: x", "mappings[1]: `config.defaults` must not set `model`"),
        ("default_api: main", "default_api: a/b", "default_api: `default_api` must be"),
        ("default_api: main", "defaults: main", "unknown name 'defaults'; expected some of: apis"),
        ("mappings:", "mappings: 5\nx:", "mappings: expected a list"),
        ("default_api: main", "default_api: [", "expected a YAML file: line"),
        ("is_default: true", "is_default: yep", "providers[0]: `is_default` must be true or false"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new, 1))
    assert any(problem in each for each in found), found


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("request: 1m30s", "idle_connection: 90s", "apis.other.timeouts.idle_connection: not supp"),
        ("request: 1m30s", "request: soon", "apis.other.timeouts.request: expected a duration"),
        ("allowed_methods: [get, POST]", "", "apis.other: `allowed_methods` is required"),
        ("[/v1/chat/completions,", "[/chat,", "apis.other.allowed_endpoints: "),
        ("timeouts:", "connection: {max_idle_conns: 5}\n    timeouts:", "max_idle_conns: not supp"),
        ("required_headers:", "rate_limit:", "apis.other: unknown name 'rate_limit'"),
    ],
)
def test_what_is_wrong_in_an_api(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in API
    found = problems(tmp_path, API.replace(old, new, 1))
    assert any(problem in each for each in found), found


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("weight: 2", "weight: x").replace("env:KEY_A", "env:ABSENT")
    text = text.replace("provider: blue", "provider: green").replace("timeout: 60", "timeout: x")
    assert len(problems(tmp_path, text)) == 4


def test_two_defaults_are_refused(tmp_path: Path) -> None:
    text = GOOD.replace("config: {api_version", "is_default: true, config: {api_version")
    assert problems(tmp_path, text) == ["providers: `is_default` may be true for one of them only"]


def test_a_target_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("provider: blue, provider_model_name: b", "provider: main, "
                        "provider_model_name: a")  # fmt: skip
    assert problems(tmp_path, text) == ["mappings[1]: the alias has this target already"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match="expected a YAML file that can be read: No such"):
        read_file(str(tmp_path / "absent"), {}, partial(read_fields, scope="project"))


def test_the_examples_of_the_documentation_are_good(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "routing.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 2
    (tmp_path / "key").write_text(KEY)
    text = "\n".join(examples).replace("file:/run/secrets/openai-key-b", "file:key")
    path = tmp_path / "providers.yaml"
    path.write_text(text)
    environ = {"OPENAI_KEY_A": KEY, "OPENAI_API_KEY": KEY}
    file = read_file(str(path), environ, partial(read_fields, scope="project"))
    assert [each.name for each in file.records.providers] == ["main", "openai"]
