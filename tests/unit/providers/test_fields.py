"""What the fields of providers, keys and mappings may be."""

from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.providers.fields import (
    KEY_FIELDS,
    MAPPING_FIELDS,
    PROVIDER_FIELDS,
    check_provider,
    read_key,
    read_mapping,
    read_provider,
    required,
)

PROVIDER = {"provider_type": "openai", "base_url": "https://h.example", "config": {}}


def refused(call: Callable[[], Any], param: str) -> None:
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.param == param
    assert f"`{param}`" in str(caught.value)


def test_only_what_is_given_is_returned() -> None:
    assert read_provider({}) == read_key({}) == read_mapping({}) == {}
    assert read_provider({"name": " a ", "other": 1}) == {"name": "a"}
    assert read_key({"weight": 0, "models": ["a", "a"]}) == {"weight": 0, "models": ("a",)}
    assert read_mapping({"alias_name": "a/b"}) == {"alias_name": "a/b"}


@pytest.mark.parametrize(
    ("read", "names"),
    [
        (read_provider, PROVIDER_FIELDS),
        (read_key, KEY_FIELDS),
        (read_mapping, MAPPING_FIELDS),
    ],
)
@pytest.mark.parametrize("odd", [None, [{}], 1.5, -1])
def test_every_field_refuses_odd_values(read: Any, names: frozenset[str], odd: Any) -> None:
    for name in names:
        refused(lambda name=name: read({name: odd}), name)


def test_what_is_required() -> None:
    required({"a": None}, "a")
    refused(lambda: required({"a": 1}, "a", "b"), "b")


def test_a_provider_as_a_whole() -> None:
    check_provider(PROVIDER)
    check_provider({**PROVIDER, "name": "more fields do not matter"})
    azure = {**PROVIDER, "config": {"auth": "bearer"}}
    refused(lambda: check_provider(azure), "config.auth")
    check_provider({**azure, "provider_type": "azure"})
    private = {**PROVIDER, "base_url": "http://10.0.0.1"}
    refused(lambda: check_provider(private), "base_url")
    check_provider({**private, "config": {"allow_private": True}})
    refused(lambda: check_provider({**private, "config": {"allow_private": False}}), "base_url")
