"""What a parameter's value is after a mapping's edits, and which header lines go out."""

from typing import Any

import pytest

from proxy.providers.body import scan
from proxy.providers.preparing import effective, headers_for
from proxy.usage.large import LargeValue
from tests.support.provider_dialects import target


@pytest.mark.parametrize(
    ("body", "edits", "value"),
    [
        (b'{"n":1}', {}, 1),
        (b"{}", {}, None),
        (b"{}", {"n": 2}, 2),
        (b'{"n":1}', {"n": 2}, 1),
        (b'{"n":1}', {"override": {"n": 3}}, 3),
        (b'{"n":1}', {"drop": ["n"]}, None),
        (b'{"n":1}', {"drop": ["n"], "override": {"n": 3}}, 3),
    ],
)
def test_effective(body: bytes, edits: dict[str, Any], value: object) -> None:
    scanned = scan(body, "application/json")
    assert scanned is not None
    assert effective(scanned, target("custom", edits=edits), "n") == value


def test_a_value_of_many_kib_is_there_but_not_read() -> None:
    scanned = scan(b'{"n":"' + b"x" * 100_000 + b'"}', "application/json")
    assert scanned is not None
    assert isinstance(effective(scanned, target("custom"), "n"), LargeValue)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Api-Key",
        "X-Api-Key",
        "Ocp-Apim-Subscription-Key",
        "Openai-Organization",
        "Openai-Project",
        "X-Goog-Api-Key",
        "X-Goog-User-Project",
    ],
)
def test_a_client_does_not_say_whose_account_pays(name: str) -> None:
    lines = [("Accept", "*/*"), (name, "theirs")]
    found = headers_for(target("custom"), lines, ("Authorization", "Bearer ours"))
    assert found == [("Host", "h"), ("Accept", "*/*"), ("Authorization", "Bearer ours")]
