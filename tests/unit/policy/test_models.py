"""Which models: in a body, in a query, in a path."""

import re
from typing import Any
from urllib.parse import unquote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.policy.models import Models, models_in_target


def refused(models: Models, name: Any) -> bool:
    try:
        models.check(name)
    except ClientError as caught:
        error = caught
    else:
        return False
    assert (error.status, error.code, error.param) == (403, "model_not_allowed", "model")
    assert str(error)
    return True


def test_globs_and_case() -> None:
    models = Models(["gpt-4o-mini", "o3*"])
    assert not any(refused(models, name) for name in ("gpt-4o-mini", "o3", "o3-pro"))
    for name in ("gpt-4o", "GPT-4o-mini", "gpt-4o-mini-2", "", "o2", "ｏ3", "o\u0433"):
        assert refused(models, name), name


@pytest.mark.parametrize("name", [None, 1, True, ["o3"], {"o3": 1}, b"o3"])
def test_a_model_is_a_string(name: object) -> None:
    assert refused(Models(["*"]), name)


@pytest.mark.parametrize(
    "name",
    ["gpt-4\0-mini", " x-mini", "x-mini ", "gpt-4\n-mini", "x" * 256 + "-mini", "a\u200b-mini"],
)
def test_names_that_others_may_cut(name: str) -> None:
    assert refused(Models(["*-mini"]), name)
    assert refused(Models(["*"]), name)


@pytest.mark.parametrize(("patterns", "allowed"), [(["*"], True), ([""], True), (["g*"], False)])
def test_a_request_that_names_none(patterns: list[str], allowed: bool) -> None:
    assert refused(Models(patterns), "") is not allowed


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("/v1/chat/completions", "", []),
        ("/v1/models", "", []),
        ("/v1/models/o3", "", ["o3"]),
        ("/v1/models/ft:gpt-4o:acme::a1", "", ["ft:gpt-4o:acme::a1"]),
        ("/v1/models/ft%3Agpt-4o", "", ["ft:gpt-4o"]),
        ("/v1/models/meta/Llama-3", "", ["meta/Llama-3"]),
        ("/v1/models/meta%2FLlama-3", "", ["meta/Llama-3"]),
        ("/v1/Models/o3", "", ["o3"]),
        ("/v1/%6dodels/o3", "", ["o3"]),
        ("/v1/engines/davinci/completions", "", ["davinci"]),
        ("/v1/openai/deployments/mine/chat/completions", "", ["mine"]),
        ("/v1/engines/a/models/b", "", ["a", "b"]),
        ("/v1/realtime", "model=o3", ["o3"]),
        ("/v1/realtime", "x=1&model=o3%2Dmini", ["o3-mini"]),
        ("/v1/realtime", "Model=o3", ["o3"]),
        ("/v1/realtime", "mod%65l=o3;x", ["o3"]),
        ("/v1/realtime", "mod%2565l=o3", ["o3"]),
        ("/v1/realtime", "model[]=o3", ["o3"]),
        ("/v1/realtime", "model", [""]),
        ("/v1/realtime", "models=x&amodel=y&=z&&", []),
        ("/v1/x", "deployment=mine", ["mine"]),
        ("/v1/x", "engine=davinci&deployment_id=mine", ["davinci", "mine"]),
        ("/v1/x", "deployment.id=a&Engine[]=b&model%00x=c", ["a", "b", "c"]),
        ("/v1/x", "deployment+id=a", ["a"]),
    ],
)
def test_what_a_target_names(path: str, query: str, named: list[str]) -> None:
    assert models_in_target(path, query) == named


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/v1/models/", "", "endpoint_not_found"),
        ("/v1/models//o3", "", "endpoint_not_found"),
        ("/v1/models/o3/", "", "endpoint_not_found"),
        ("/v1/models/o3;x", "", "endpoint_not_found"),
        ("/v1/models/o3%3Bx", "", "endpoint_not_found"),
        ("/v1/models/o3%00", "", "endpoint_not_found"),
        ("/v1/models/o%2533", "", "endpoint_not_found"),
        ("/v1//engines/o3/completions", "", "endpoint_not_found"),
        ("/v1/engines%2Fo3/completions", "", "endpoint_not_found"),
        ("/v1/engines/o3%2Fgpt-4/completions", "", "endpoint_not_found"),
        ("/v1/engines\\o3", "", "endpoint_not_found"),
        ("/v1/realtime", "model=a&model=a", "invalid_request"),
        ("/v1/realtime", "model=a&MODEL=b", "invalid_request"),
        ("/v1/realtime", "model=a;model=b", "invalid_request"),
        ("/v1/realtime", "model=a%2562", "invalid_request"),
        ("/v1/realtime", "%26model=a", "invalid_request"),
        ("/v1/realtime", "model=a&x=1%26model=b", "invalid_request"),
        ("/v1/realtime", "model=a&x=%2526model%253Db", "invalid_request"),
        ("/v1/realtime", "x=1?model=a&model=a", "invalid_request"),
        ("/v1/x", "deployment=a&deployment=b", "invalid_request"),
        ("/v1/x", "deployment_id=a&deployment.id=b", "invalid_request"),
        ("/v1/x", "model=a&x=1%26engine=b", "invalid_request"),
        ("/v1/x", "engine=a%2562", "invalid_request"),
    ],
)
def test_what_could_be_read_in_two_ways(path: str, query: str, code: str) -> None:
    with pytest.raises(ClientError) as caught:
        models_in_target(path, query)
    assert caught.value.code == code


PIECES = st.sampled_from(
    [
        *("models", "Models", "engines", "deployments", "%65ngines", "chat", "ok", "evil", "%6fk"),
        *(
            "/",
            "//",
            "%2F",
            "%252f",
            "\\",
            "%5c",
            ";",
            "%3b",
            "?",
            "&",
            "=",
            "%26",
            "%3d",
            "+",
            "%00",
        ),
        *(
            "model",
            "MODEL",
            "mod%65l",
            "mod%2565l",
            "model[]",
            "model=ok",
            "model=evil",
            "deployment=evil",
            "engine=ok",
            "%20",
            "#",
        ),
    ]
)


def named_by_anybody(target: str) -> set[str]:
    """Every model that the most generous reader of a target would find in it."""
    for _ in range(5):
        # Plus and percent signs in the path, too.
        target = unquote_plus(target)
    path, _, query = target.lower().partition("?")
    found = set(re.findall(r"[/\\;](?:models|engines|deployments)[/\\;]+([^/\\;?&#\0]+)", path))
    for item in re.split("[&;#]", query):
        name, _, value = item.partition("=")
        if name.strip(" \0").partition("[")[0] in ("model", "deployment", "engine"):
            found.add(value)
    return {name.strip(" \0") for name in found} - {""}


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.lists(PIECES, max_size=10))
def test_no_target_hides_a_model(pieces: list[str]) -> None:
    target = "/v1/" + "".join(pieces)
    path, _, query = target.partition("?")
    models = Models(["ok", "ok/*"])
    try:
        for name in models_in_target(path, query):
            models.check(name)
    except ClientError:
        return
    assert not any(
        "evil" in name and not name.startswith("ok") for name in named_by_anybody(target)
    )
