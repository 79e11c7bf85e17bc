"""Passed through: the key swapped, the target untouched, the original left alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.providers.base import OutboundRequest, Target
from proxy.providers.openai import OpenAIProvider


def test_prepare() -> None:
    lines = [("Accept", "a"), ("Cookie", "1"), ("Cookie", "2")]
    request = OutboundRequest("PATCH", b"/v1/a%2Fb/../c?q=%41", lines, b"body")
    call = OpenAIProvider().prepare(request, Target.from_url("https://h:8443/pre/fix"), "sk-up")
    assert call.url == "https://h:8443/pre/fix/v1/a%2Fb/../c?q=%41"
    assert call.request == OutboundRequest(
        "PATCH",
        b"/pre/fix/v1/a%2Fb/../c?q=%41",
        [("Host", "h:8443"), *lines, ("Authorization", "Bearer sk-up")],
        b"body",
    )
    assert request.headers == [("Accept", "a"), ("Cookie", "1"), ("Cookie", "2")]


def test_without_a_key_to_swap_in_the_lines_stay_as_they_are() -> None:
    lines = [("Accept", "a"), ("Authorization", "whatever it is")]
    request = OutboundRequest("GET", b"/v1/x", lines, None)
    call = OpenAIProvider().prepare(request, Target.from_url("https://h"), None)
    assert call.request.headers == [("Host", "h"), *lines]


@pytest.mark.parametrize("body", [None, b"", iter([b"a"])])
@pytest.mark.parametrize("chunked", [True, False])
def test_the_body_is_handed_on(body: Any, chunked: bool) -> None:
    request = OutboundRequest("POST", b"/v1/x", [], body, chunked=chunked)
    call = OpenAIProvider().prepare(request, Target.from_url("https://h"), "k")
    assert call.request.body is body
    assert call.request.chunked is chunked


@given(st.binary(min_size=1).filter(lambda target: b" " not in target))
def test_any_target_survives(target: bytes) -> None:
    request = OutboundRequest("GET", b"/v1/" + target, [], None)
    call = OpenAIProvider().prepare(request, Target.from_url("http://h/p"), "k")
    assert call.url.encode("latin-1") == b"http://h/p/v1/" + target
