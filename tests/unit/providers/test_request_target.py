"""The model in a query is replaced, and every other byte stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.providers.request_target import (
    query_model,
    with_query_model,
    without_account,
    without_deployment,
)


@pytest.mark.parametrize(
    ("target", "model", "replaced"),
    [
        (b"/v1/realtime", None, b"/v1/realtime"),
        (b"/v1/realtime?", None, b"/v1/realtime?"),
        (b"/v1/models?x=model&model2=a", None, b"/v1/models?x=model&model2=a"),
        (b"/v1/realtime?model=a", "a", b"/v1/realtime?model=b%2Fc"),
        (b"/v1/realtime?x=%41&model=a&y=+", "a", b"/v1/realtime?x=%41&model=b%2Fc&y=+"),
        (b"/v1/realtime?&&model=a=b&", "a=b", b"/v1/realtime?&&model=b%2Fc&"),
        (b"/v1/realtime?model=", "", b"/v1/realtime?model=b%2Fc"),
        (b"/v1/realtime?model=%C3%BC+%2F", "ü /", b"/v1/realtime?model=b%2Fc"),
        (b"/v1/realtime?x=1;model=a;y=2", "a", b"/v1/realtime?x=1;model=b%2Fc;y=2"),
        (b"/v1/r?a=?model=x", None, b"/v1/r?a=?model=x"),
    ],
)
def test_table(target: bytes, model: str | None, replaced: bytes) -> None:
    assert query_model(target) == model
    assert with_query_model(target, "b/c") == replaced


@pytest.mark.parametrize(
    "query",
    [
        b"model=a&model=a",
        b"model=a;model=b",
        b"model=a&Model=b",
        b"MODEL=a",
        b"mod%65l=a",
        b"model=a&mod%65l=b",
        b"model[]=a",
        b"+model=a",
        b"model%20=a",
    ],
)
def test_what_two_servers_could_read_differently(query: bytes) -> None:
    for read in (query_model, lambda target: with_query_model(target, "b")):
        with pytest.raises(ClientError) as caught:
            read(b"/v1/realtime?" + query)
        assert (caught.value.code, caught.value.param) == ("invalid_request", "model")


@pytest.mark.parametrize("value", [b"%FF", b"a%00", b"a%0D%0A", b"a" * 1025])
def test_odd_values(value: bytes) -> None:
    with pytest.raises(ClientError):
        query_model(b"/v1/realtime?model=" + value)


def test_a_name_alone_has_no_value() -> None:
    assert query_model(b"/v1/realtime?model") == ""


@given(st.text().filter(str.isprintable), st.binary(), st.binary())
def test_any_model_comes_back(model: str, before: bytes, behind: bytes) -> None:
    if b"model" in (before + behind).lower() or b"%" in before + behind or len(model) > 100:
        return
    replaced = with_query_model(b"/v1/x?" + before + b"&model=old&" + behind, model)
    assert query_model(replaced) == model
    assert replaced.startswith(b"/v1/x?" + before + b"&model=")
    assert replaced.endswith(b"&" + behind)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (b"?key=AIza", b""),
        (b"?a=1&key=AIza&b=2", b"?a=1&b=2"),
        (b"?a=1&KEY=x;%6bey=y&%256bey=z", b"?a=1"),
        (b"?api-key=x&access_token=y&$userProject=z&%24userproject=z", b""),
        (b"?subscription-key", b""),
        (b"?monkey=1&keys=2&&a=%41+;", b"?monkey=1&keys=2&&a=%41+;"),
        (b"?", b"?"),
        (b"", b""),
    ],
)
def test_a_query_does_not_say_whose_account_pays(query: bytes, left: bytes) -> None:
    assert without_account(b"/v1/realtime" + query) == b"/v1/realtime" + left


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            b"/v1/deployments/gpt-4/chat/completions?api-version=2024-10-21",
            b"/v1/chat/completions",
        ),
        (b"/v1/deployments/a%2Fb/embeddings?a=1&API-Version=x&b=2", b"/v1/embeddings?a=1&b=2"),
        (b"/v1/deployments/m/chat/completions", b"/v1/chat/completions"),
        (b"/v1/chat/completions?api-version=1", b"/v1/chat/completions?api-version=1"),
        (b"/v1/deployments/m", b"/v1/deployments/m"),
        (b"/v1/files/deployments/m/x", b"/v1/files/deployments/m/x"),
    ],
)
def test_the_form_of_azures_clients(written: bytes, expected: bytes) -> None:
    assert without_deployment(written) == expected
